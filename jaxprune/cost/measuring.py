"""Energy that was measured: counters of the devices, read by CodeCarbon, or an error.

CodeCarbon (Courty et al., https://github.com/mlco2/codecarbon) reads the energy counters of GPUs (NVML, AMD SMI) and of
CPUs (RAPL).  Where it finds none it goes on with a data-sheet constant or a model of the load, in a log line only, and
memory it always models.  Here only counters count: what CodeCarbon models is left out, and where the counter of the
device that computes is not there, ``measured`` refuses.  Only its offline tracker is used: it writes no file and sends
nothing.
"""

import importlib
import logging
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax

from jaxprune import check
from jaxprune.cost.energy import Energy, check_overhead, from_counters

_COUNTERS = {"gpu": "GPU by its driver's counter", "cpu": "CPU by RAPL"}


class Measurement:
    """What ``measured`` hands out: holds the energy once the block is over."""

    def __init__(self) -> None:
        self._energy: Energy | None = None

    @property
    def energy(self) -> Energy:
        """The energy of the block.

        Raises:
          ValueError: the block is not over.
        """
        if self._energy is None:
            raise ValueError("energy: expected the measured block to be over, but it is not. Read it after the block.")
        return self._energy


@contextmanager
def measured(country: str, *, overhead: float = 1.0, every: float = 1.0) -> Iterator[Measurement]:
    """Measures the energy of a block of code from the counters of the devices.

    Counters are those of the whole machine, and of all GPUs that ``CUDA_VISIBLE_DEVICES`` leaves visible: nothing else
    should run.  Let the block take seconds at least, and wait inside it for its results
    (``jax.block_until_ready``).  Needs ``pip install 'codecarbon>=3.3.2'``::

        with jp.cost.measured("BRA") as run:
            jax.block_until_ready(evaluate(network))
        print(run.energy)

    Args:
      country: ISO 3166 code of three letters.  CodeCarbon's table gives the carbon intensity of its grid.
      overhead: of the data centre (its PUE), at least 1.
      every: seconds between readings.

    Yields:
      A ``Measurement``; its ``energy`` is there after the block.

    Raises:
      ImportError: CodeCarbon is not installed.
      ValueError: CodeCarbon does not know the country, ``overhead`` is below 1, or ``every`` is not above 0.
      RuntimeError: no counter of the device that JAX computes on can be read, or it stood still; ``estimate`` serves.
    """
    check_overhead(overhead)
    check.positive("every", every)
    if not re.fullmatch("[A-Z]{3}", country):
        raise ValueError(
            f"country: expected an ISO 3166 code of three capitals, but got {country!r}. Brazil is 'BRA', France 'FRA'."
        )
    codecarbon = _codecarbon()
    _check_known(country)
    with tempfile.TemporaryDirectory() as folder:
        tracker = _tracker(codecarbon, country, overhead, every, folder)
        counters = _counters(tracker)
        tracker.start()
        measurement = Measurement()
        try:
            yield measurement
        finally:
            tracker.stop()
        measurement._energy = _read(tracker, counters, overhead)


def _codecarbon() -> Any:
    try:
        return importlib.import_module("codecarbon")
    except ModuleNotFoundError as error:
        if error.name != "codecarbon":
            raise
        raise ImportError(
            "measured: expected CodeCarbon to be installed, but it is not. Do pip install 'codecarbon>=3.3.2', or use "
            "jp.cost.estimate, which needs the watts stated."
        ) from error


def _check_known(country: str) -> None:
    known = importlib.import_module("codecarbon.input").DataSource().get_global_energy_mix_data()
    if country not in known:
        raise ValueError(
            f"country: expected one whose grid CodeCarbon knows, but got {country!r}, for which it would take the mean "
            "of the world. Look the code up (ISO 3166, three letters), or use jp.cost.estimate with your own grid."
        )


def _tracker(codecarbon: Any, country: str, overhead: float, every: float, folder: str) -> Any:
    """Makes a tracker that neither writes nor sends, whatever configuration files and environment variables say."""
    # It logs through a handler of its own, and what it falls back to is an error here.
    logging.getLogger("codecarbon").setLevel(logging.ERROR)
    tracker = codecarbon.OfflineEmissionsTracker(
        country_iso_code=country,
        region=None,
        cloud_provider=None,
        cloud_region=None,
        country_2letter_iso_code=None,
        measure_power_secs=every,
        pue=overhead,
        wue=0.0,
        output_methods=[],
        output_handlers=[],
        output_dir=folder,
        emissions_endpoint=None,
        electricitymaps_api_token="",  # None would look for one in the configuration
        force_cpu_power=None,
        force_ram_power=None,
        force_carbon_intensity_g_co2e_kwh=None,
        force_mode_cpu_load=False,
        gpu_ids=None,
        tracking_mode="machine",
        allow_multiple_runs=True,  # else it takes a lock file and the handlers of signals
        log_level="error",
    )
    if not hasattr(tracker, "_hardware"):  # it logs the errors of its own construction, and goes on
        raise RuntimeError(
            f"measured: CodeCarbon {getattr(codecarbon, '__version__', '')} could not be set up; its log says why. Do "
            "pip install 'codecarbon>=3.3.2' for a version that is known to work, or use jp.cost.estimate."
        )
    return tracker


def _counters(tracker: Any) -> tuple[str, ...]:
    """Says which parts are read from counters; that of the device that computes must be among them."""
    tracker.get_detected_hardware()  # finds the parts
    parts = [(type(part).__name__, getattr(part, "_mode", "")) for part in tracker._hardware]
    found = {"gpu": any(name == "GPU" for name, _ in parts), "cpu": ("CPU", "intel_rapl") in parts}
    backend = jax.default_backend()
    if not found.get(backend, False):
        ways = ", ".join(f"{name} {mode}".strip() for name, mode in parts)
        raise RuntimeError(
            f"measured: expected a counter of the {backend.upper()}, on which JAX computes, but no power can be read "
            f"here (NVML or AMD SMI for GPUs, RAPL for CPUs). CodeCarbon has {ways}, and would go on with constants "
            "and models. Use jp.cost.estimate(seconds, watts=..., grams_per_kwh=...), which says what it is."
        )
    return tuple(name for name in ("gpu", "cpu") if found[name])


def _read(tracker: Any, counters: tuple[str, ...], overhead: float) -> Energy:
    # It logs errors of starting and stopping, and goes on: then there are no data.
    data = getattr(tracker, "final_emissions_data", None)
    parts = {name: getattr(data, f"{name}_energy", 0.0) for name in counters}
    if data is None or not parts[jax.default_backend()] > 0:
        raise RuntimeError(
            f"measured: expected the counter of the {jax.default_backend().upper()} to move, but it did not, or "
            "CodeCarbon failed (its log says why). Let the block take seconds at least, or use jp.cost.estimate."
        )
    kwh = sum(parts.values())
    how = " and ".join(_COUNTERS[name] for name in counters)
    # The grid is that of the total, of which models are a part.
    grams = 1000 * data.emissions * kwh / data.energy_consumed
    return from_counters(data.duration, kwh, grams, overhead, f"measured by CodeCarbon: {how}; the rest left out")
