"""SR-TOD (Cao et al., ECCV 2024): P2 reconstructs the image, and where it fails to P2 is enhanced."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmdet.models.detectors import CascadeRCNN, FasterRCNN
from mmdet.registry import MODELS
from mmdet.structures import OptSampleList, SampleList
from torch import Tensor, nn


class ReconstructionHead(nn.Sequential):
    """From P2 ``[N, C, H, W]`` to an RGB image ``[N, 3, 4H, 4W]`` in [0, 1].

    Args:
        channels: ``C``, a multiple of 4.
    """

    def __init__(self, channels: int) -> None:
        layers: list[nn.Module] = []
        for width in (channels // 2, channels // 4):
            layers.append(nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1))
            for _ in range(2):
                layers += [nn.Conv2d(width, width, 3, padding=1, bias=False), nn.ReLU(inplace=True)]
        layers += [nn.Conv2d(channels // 4, 3, 3, padding=1), nn.Sigmoid()]
        super().__init__(*layers)


class DifferenceEnhancement(nn.Module):
    """The paper's DGFE: ``P2 * s * (1 + B)``.

    ``s`` is a gate for each channel, the sigmoid of one perceptron of the mean and of the maximum of P2, summed.
    ``B`` is ``(sign(D - threshold) + 1) / 2`` of the difference map, at P2's size by its nearest pixels.

    Args:
        channels: of P2.
        threshold: of the difference, which is in [0, 1].
        reduction: channels over the perceptron's hidden ones.
        learnable_threshold: the threshold is a parameter whose gradient is that of
            ``sigmoid((D - threshold) / temperature)``, a straight-through estimate of ours. In the published code it
            is a parameter too, but the sign has no gradient: only weight decay moves it.
        temperature: of that sigmoid.
    """

    def __init__(
        self,
        channels: int,
        threshold: float,
        reduction: int = 16,
        learnable_threshold: bool = False,
        temperature: float = 1 / 255,
    ) -> None:
        super().__init__()
        if not 0 < threshold < 1:
            raise ValueError(f"threshold: expected a number between 0 and 1, got {threshold}")
        if temperature <= 0:
            raise ValueError(f"temperature: expected a positive number, got {temperature}")
        if not 1 <= reduction <= channels:
            raise ValueError(f"reduction: expected 1 to {channels}, the channels, got {reduction}")
        hidden = channels // reduction
        self.perceptron = nn.Sequential(
            nn.Linear(channels, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, channels)
        )
        self.learnable_threshold = learnable_threshold
        self.temperature = temperature
        if learnable_threshold:
            self.threshold = nn.Parameter(torch.tensor(threshold))
        else:
            self.register_buffer("threshold", torch.tensor(threshold))

    def forward(self, p2: Tensor, difference: Tensor) -> Tensor:
        """``p2 [N, C, H, W]`` and ``difference [N, 1, h, w]``, of any size; returns ``[N, C, H, W]``."""
        pooled = p2.mean((2, 3)), p2.amax((2, 3))
        gate = torch.sigmoid(sum(self.perceptron(one) for one in pooled))
        return p2 * gate[..., None, None] * (1 + self.mask(difference, p2.shape[-2:]).to(p2.dtype))

    def mask(self, difference: Tensor, size: tuple[int, int]) -> Tensor:
        """``B`` ``[N, 1, *size]``: 1 above the threshold, 0 below, a half at it."""
        excess = F.interpolate(difference.detach().float(), size=size) - self.threshold
        hard = (excess.sign() + 1) / 2
        if not self.learnable_threshold:
            return hard
        soft = torch.sigmoid(excess / self.temperature)
        return hard + (soft - soft.detach())


class SRTODMixin:
    """Makes a detector, whose neck gives P2 first, an SR-TOD of itself.

    With an ``EFPNBSNeck`` E-FPN-BS comes first: the image is reconstructed from its P2, which is then enhanced.

    Args:
        channels: of the neck.
        reconstruction_weight: of the mean squared error of the image.
        threshold, reduction, learnable_threshold, temperature: of :class:`DifferenceEnhancement`; thresholds of the
            published configs: 3 / 255 for AI-TOD, 4 / 255 for VisDrone.
    """

    def __init__(self, *, srtod: dict, **settings) -> None:
        super().__init__(**settings)
        options = dict(srtod)
        self.reconstruction_weight = options.pop("reconstruction_weight", 1.0)
        self.reconstruction = ReconstructionHead(options["channels"])
        self.enhancement = DifferenceEnhancement(**options)
        self._shapes: list[tuple[int, int]] | None = None
        self._squared_error: Tensor | None = None

    def forward(
        self, inputs: Tensor, data_samples: OptSampleList = None, mode: str = "tensor"
    ) -> object:
        """mmdet's three modes; all of them enhance P2."""
        self._shapes = data_samples and [one.img_shape[:2] for one in data_samples]
        try:
            return super().forward(inputs, data_samples, mode)
        finally:
            self._shapes = self._squared_error = None

    def extract_feat(self, batch_inputs: Tensor) -> tuple[Tensor, ...]:
        """The neck's levels, P2 enhanced.

        Raises:
            ValueError: the first level has not a fourth of the image's sides.
        """
        p2, *others = super().extract_feat(batch_inputs)
        image = self.raw_image(batch_inputs)
        found = self.reconstruction(p2)
        if found.shape != image.shape:
            raise ValueError(
                f"SR-TOD: expected a neck whose first level has stride 4, got one of {tuple(p2.shape[-2:])} "
                f"for images of {tuple(image.shape[-2:])}"
            )
        if self.training:
            self._squared_error = F.mse_loss(found.float(), image)
        difference = (found.detach().float() - image).abs().mean(1, keepdim=True)
        return (self.enhancement(p2, difference), *others)

    @torch.no_grad()
    def raw_image(self, batch_inputs: Tensor) -> Tensor:
        """The batch as it was before the preprocessor: RGB in [0, 1], float32, zero where it is padded."""
        preprocessor, image = self.data_preprocessor, batch_inputs.float()
        if preprocessor._enable_normalize:
            image = image * preprocessor.std + preprocessor.mean
        if not preprocessor._channel_conversion:  # mmcv reads BGR
            image = image.flip(1)
        image = image / 255
        for one, (height, width) in zip(image, self._shapes or []):
            one[:, height:] = 0
            one[:, :, width:] = 0
        return image

    def loss(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> dict[str, Tensor]:
        """The detector's losses and ``loss_reconstruction``."""
        losses = super().loss(batch_inputs, batch_data_samples)
        return {**losses, "loss_reconstruction": self.reconstruction_weight * self._squared_error}


@MODELS.register_module()
class SRTODFasterRCNN(SRTODMixin, FasterRCNN):
    """Faster R-CNN with SR-TOD."""


@MODELS.register_module()
class SRTODCascadeRCNN(SRTODMixin, CascadeRCNN):
    """Cascade R-CNN, and so DetectoRS, with SR-TOD."""
