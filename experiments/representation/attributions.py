"""The attributions that the study can make of a network, and how each becomes one map."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxprune.evaluate import attribution as made


@dataclass(frozen=True)
class AttributionOptions:
    """What an attribution may be configured with."""

    site: str
    steps: int
    key: Any
    legacy: bool


class Attribution(NamedTuple):
    """A method of attribution.

    Attributes:
      title: what figures and tables call it.
      make: options -> method.
      source: whose it is, or what it reads.
      is_heat: whether it gives one map of 0 or more; other maps are squared and summed over channels.
    """

    title: str
    make: Callable[[AttributionOptions], Any]
    source: str = ""
    is_heat: bool = False

    def pooling(self, legacy: bool) -> str:
        """Returns how ``jp.evaluate.relevance.pooled`` makes one map of 0 or more of it."""
        if not self.is_heat:
            return "squared"
        return "minmax" if legacy else "positive"


def _integrated(o: AttributionOptions) -> Any:
    method = made.integrated_gradients(steps=o.steps)
    return made.noise_tunnel(method, samples=2, std=1.0, key=o.key) if o.legacy else method


_GRAD_CAM = "Selvaraju et al. 2017, arXiv 1610.02391"
_INTEGRATED = "Sundararajan et al. 2017, arXiv 1703.01365"
_GUIDED = "the same, times guided backpropagation: Springenberg et al. 2015, arXiv 1412.6806"
_ROLLOUT = "Abnar and Zuidema 2020, arXiv 2005.00928"
_ATTENTION = "of the class token in the last layer"

ATTRIBUTIONS: Mapping[str, Attribution] = {
    "grad-cam": Attribution("Grad-CAM", lambda o: made.grad_cam(o.site, dead="zeros"), _GRAD_CAM, True),
    "integrated-gradients": Attribution("integrated gradients", _integrated, _INTEGRATED),
    "guided-grad-cam": Attribution("guided Grad-CAM", lambda o: made.guided_grad_cam(o.site, dead="zeros"), _GUIDED),
    "attention": Attribution("attention", lambda o: made.last_attention(), _ATTENTION, True),
    "rollout": Attribution("attention rollout", lambda o: made.attention_rollout(), _ROLLOUT, True),
    "guided-backpropagation": Attribution("guided backpropagation", lambda o: made.guided_backpropagation()),
    "smooth-grad": Attribution("SmoothGrad", lambda o: made.smooth_grad(samples=16, std=0.5, key=o.key)),
    "input-times-gradient": Attribution("input times gradient", lambda o: made.input_times_gradient()),
}
