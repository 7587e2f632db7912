"""The plain twins: what everything else is compared with, itself against loops of plain Python."""

REFERENCE = "efpn_kernels/reference/"
ORACLE = ("tests/test_oracle.py",)

FAULTS = (
    (
        REFERENCE + "cem.py",
        "context = torch.relu(project(pooled))",
        "context = project(pooled)",
        ORACLE,
    ),
    (
        REFERENCE + "cem.py",
        "F.adaptive_max_pool2d(p_high, 1)",
        "F.adaptive_avg_pool2d(p_high, 1)",
        ORACLE,
    ),
    (REFERENCE + "cem.py", "return p_low + context", "return p_low * context", ORACLE),
    (
        REFERENCE + "fbsm.py",
        'mode="bilinear", align_corners=False',
        'mode="bilinear", align_corners=True',
        ORACLE,
    ),
    (
        REFERENCE + "fbsm.py",
        "m_high = torch.sigmoid(high_gate(torch.relu(high_conv(upsampled))))",
        "m_high = torch.sigmoid(high_gate(high_conv(upsampled)))",
        ORACLE,
    ),
    (
        REFERENCE + "fbsm.py",
        "torch.sigmoid(fuse_conv(m_high + m_low))",
        "torch.sigmoid(fuse_conv(m_high * m_low))",
        ORACLE,
    ),
    (
        REFERENCE + "fbsm.py",
        "return torch.relu(refine_conv(separated))",
        "return refine_conv(separated)",
        ORACLE,
    ),
    (REFERENCE + "fbsm.py", "separated = c_low * mask", "separated = c_low + c_low * mask", ORACLE),
    (
        REFERENCE + "fbsm.py",
        "        _conv(fuse_weight, fuse_bias, 1),",
        "        _conv(fuse_weight, 0 * fuse_bias, 1),",
        ORACLE,
    ),
    (
        REFERENCE + "dc_loss.py",
        'sign = 1.0 if form == "equation" else -1.0',
        'sign = -1.0 if form == "equation" else 1.0',
        ORACLE,
    ),
    (
        REFERENCE + "dc_loss.py",
        "loss = alpha * error**2 + beta * error",
        "loss = beta * error**2 + alpha * error",
        ORACLE,
    ),
    (
        REFERENCE + "dc_loss.py",
        "x = sign * k * (error - delta)",
        "x = sign * k * (error + delta)",
        ORACLE,
    ),
    (
        REFERENCE + "dc_loss.py",
        "        loss = loss * weight\n",
        "        loss = loss * weight.sqrt()\n",
        ORACLE,
    ),
    (
        REFERENCE + "dc_loss.py",
        "divisor = max(loss.numel(), 1) if avg_factor is None else avg_factor",
        "divisor = max(loss.numel(), 1)",
        ORACLE,
    ),
    (
        REFERENCE + "dc_loss.py",
        "        k: float = 10.0,\n        delta: float = 0.15,\n        learnable",
        "        k: float = 10.0,\n        delta: float = 0.2,\n        learnable",
        ORACLE,
    ),
    (REFERENCE + "dc_loss.py", "return self.loss_weight * loss", "return loss", ORACLE),
    (
        REFERENCE + "efpn_bs.py",
        "        c_low,\n        p_high,",
        "        p_low,\n        p_high,",
        ORACLE,
    ),
    (
        REFERENCE + "efpn_bs.py",
        "        if self.use_fbsm:\n            p_low = self.fbsm(p_low, p_high)\n",
        "        p_low = self.fbsm(p_low, p_high)\n",
        ORACLE,
    ),
)
