"""Parts of the demo data: drawn objects, composed scenes, and the Hubble deep field."""
