"""The attributions that the study can make of a network, and how each becomes one map."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxprune.evaluate import attribution as made


class Attribution(NamedTuple):
    """A method of attribution.

    Attributes:
      title: what figures and tables call it.
      make: (site, steps, key, legacy), as keywords -> method.
      source: whose it is, or what it reads.
      is_heat: whether it gives one map of 0 or more; other maps are squared and summed over channels.
    """

    title: str
    make: Callable[..., Any]
    source: str = ""
    is_heat: bool = False

    def pooling(self, legacy: bool) -> str:
        """Returns how ``jp.evaluate.relevance.pooled`` makes one map of 0 or more of it."""
        if not self.is_heat:
            return "squared"
        return "minmax" if legacy else "positive"


def _integrated(*, steps: int, key: Any, legacy: bool, **_: Any) -> Any:
    method = made.integrated_gradients(steps=steps)
    return made.noise_tunnel(method, samples=2, std=1.0, key=key) if legacy else method


_GRAD_CAM = "Selvaraju et al. 2017, arXiv 1610.02391"
_INTEGRATED = "Sundararajan et al. 2017, arXiv 1703.01365"
_GUIDED = "the same, times guided backpropagation: Springenberg et al. 2015, arXiv 1412.6806"
_ROLLOUT = "Abnar and Zuidema 2020, arXiv 2005.00928"

ATTRIBUTIONS: Mapping[str, Attribution] = {
    "grad-cam": Attribution("Grad-CAM", lambda site, **_: made.grad_cam(site, dead="zeros"), _GRAD_CAM, True),
    "integrated-gradients": Attribution("integrated gradients", _integrated, _INTEGRATED),
    "guided-grad-cam": Attribution(
        "guided Grad-CAM", lambda site, **_: made.guided_grad_cam(site, dead="zeros"), _GUIDED
    ),
    "attention": Attribution(
        "attention", lambda **_: made.last_attention(), "of the class token in the last layer", True
    ),
    "rollout": Attribution("attention rollout", lambda **_: made.attention_rollout(), _ROLLOUT, True),
    "guided-backpropagation": Attribution("guided backpropagation", lambda **_: made.guided_backpropagation()),
    "smooth-grad": Attribution("SmoothGrad", lambda key, **_: made.smooth_grad(samples=16, std=0.5, key=key)),
    "input-times-gradient": Attribution("input times gradient", lambda **_: made.input_times_gradient()),
}
