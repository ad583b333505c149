"""Energy and carbon: the arithmetic of estimates, break-even, and what may be called measured (a fake CodeCarbon)."""

import sys
import types

import jax
import pytest

from jaxprune import cost

BILLED = {"watts": 100.0, "grams_per_kwh": 50.0}


def test_estimate_is_seconds_times_what_was_stated():
    got = cost.estimate(1800.0, watts=250.0, grams_per_kwh=400.0, devices=4, overhead=1.5)
    assert got.kwh == pytest.approx(0.5 * 0.250 * 4 * 1.5)
    assert got.grams == pytest.approx(400 * 0.75)
    assert (got.seconds, got.watts, got.grams_per_kwh, got.devices, got.overhead) == (1800.0, 250.0, 400.0, 4, 1.5)
    assert got.estimate
    assert "estimated: measured time x stated watts x stated grid intensity; 250 W x 4, overhead 1.5" in str(got)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seconds": 0.0}, "seconds: expected a finite number above 0"),
        ({"watts": float("nan")}, "watts: expected a finite number above 0"),
        ({"grams_per_kwh": -1.0}, "grams_per_kwh: expected a finite number above 0"),
        ({"devices": 0}, "devices: expected a finite number above 0"),
        ({"overhead": 0.9}, "overhead: expected a power usage effectiveness of 1 or more"),
    ],
)
def test_estimate_refuses_what_makes_no_sense(change, message):
    arguments = {"seconds": 1.0, **BILLED, **change}
    with pytest.raises(ValueError, match=message):
        cost.estimate(arguments.pop("seconds"), **arguments)


def test_saving_of_estimates_is_that_of_time_and_says_so():
    got = cost.saving(cost.estimate(8.0, **BILLED), cost.estimate(2.0, **BILLED))
    assert (got.seconds, got.kwh, got.grams) == pytest.approx((0.75, 0.75, 0.75))
    assert (got.search, got.break_even_kwh, got.why) == (None, None, "no search was stated")
    assert "share of the time, in other units" in str(got)
    more = cost.saving(cost.estimate(8.0, **BILLED), cost.estimate(4.0, watts=150.0, grams_per_kwh=50.0))
    assert (more.seconds, more.kwh) == pytest.approx((0.5, 0.25))
    assert "in other units" not in str(more)


def test_saving_pays_for_the_search_after_as_many_images_as_save_its_energy():
    dense, pruned = cost.estimate(4.0, **BILLED), cost.estimate(1.0, **BILLED)
    # The search ran on a grid three times as dirty.
    search = cost.estimate(601.0, watts=100.0, grams_per_kwh=150.0)
    got = cost.saving(dense, pruned, search=search, examples=32)
    saved = 3.0 / 32  # seconds at 100 W for each image
    assert got.break_even_kwh == 6411  # 601 / saved = 6410.67
    assert (got.break_even_kwh - 1) * saved < 601 <= got.break_even_kwh * saved
    assert (got.break_even_grams - 1) * saved < 3 * 601 <= got.break_even_grams * saved
    assert got.search_examples == pytest.approx(601 / 4 * 32)
    assert got.why == ""
    assert "pays for itself after 6411 images" in str(got)


def test_saving_breaks_even_on_a_whole_number_exactly():
    got = cost.saving(
        cost.estimate(0.3, **BILLED), cost.estimate(0.2, **BILLED), search=cost.estimate(0.7, **BILLED), examples=10
    )
    assert got.break_even_kwh == got.break_even_grams == 70


@pytest.mark.parametrize("seconds", [4.0, 5.0])
def test_saving_of_nothing_never_pays_and_gives_the_reason(seconds):
    dense, pruned, search = (cost.estimate(time, **BILLED) for time in (4.0, seconds, 1.0))
    got = cost.saving(dense, pruned, search=search, examples=32)
    assert got.break_even_kwh is None
    assert got.break_even_grams is None
    assert "takes no less energy" in got.why
    assert "no break-even: the pruned network takes no less" in str(got)
    assert got.kwh == pytest.approx(1 - seconds / 4)


def test_saving_refuses_what_cannot_be_compared(codecarbon, monkeypatch):
    dense, pruned = cost.estimate(4.0, **BILLED), cost.estimate(1.0, **BILLED)
    with pytest.raises(ValueError, match="search/examples: expected both or neither"):
        cost.saving(dense, pruned, search=dense)
    with pytest.raises(ValueError, match="search/examples: expected both or neither"):
        cost.saving(dense, pruned, examples=3)
    with pytest.raises(ValueError, match="examples: expected a finite number above 0"):
        cost.saving(dense, pruned, search=dense, examples=0)
    with pytest.raises(ValueError, match="before/after: expected one grid, but got 50 and 60 g/kWh"):
        cost.saving(dense, cost.estimate(1.0, watts=100.0, grams_per_kwh=60.0))
    codecarbon([CPU("intel_rapl")])
    with cost.measured("BRA") as run:
        pass
    with pytest.raises(ValueError, match="before/after: expected both estimated or both measured"):
        cost.saving(run.energy, pruned)


# A stand-in for CodeCarbon 3.3: the parts it finds, and the data it leaves behind.


class RAM:
    pass


class CPU:
    def __init__(self, mode):
        self._mode = mode


class GPU:
    pass


@pytest.fixture
def codecarbon(monkeypatch):
    def install(parts, fails=False, **energies):
        events = []
        used = {"cpu_energy": 2e-6, "gpu_energy": 0.0, "ram_energy": 1e-6, **energies}

        class Tracker:
            def __init__(self, **options):
                events.append(options)
                if not fails:
                    self._hardware = []

            def get_detected_hardware(self):
                self._hardware = [RAM(), *parts]

            def start(self):
                events.append("start")

            def stop(self):
                events.append("stop")
                total = sum(used.values())
                self.final_emissions_data = types.SimpleNamespace(
                    duration=10.0, emissions=0.1 * total, energy_consumed=total, **used
                )

        def online(*arguments, **options):
            raise AssertionError("the online tracker calls out")

        class DataSource:
            def get_global_energy_mix_data(self):
                return {"BRA": {}, "FRA": {}}

        main = types.ModuleType("codecarbon")
        main.OfflineEmissionsTracker, main.EmissionsTracker, main.__version__ = Tracker, online, "0"
        below = types.ModuleType("codecarbon.input")
        below.DataSource = DataSource
        monkeypatch.setitem(sys.modules, "codecarbon", main)
        monkeypatch.setitem(sys.modules, "codecarbon.input", below)
        return events

    return install


def test_measured_is_what_the_counter_says_without_what_is_modelled(codecarbon):
    events = codecarbon([CPU("intel_rapl")])
    with cost.measured("BRA") as run:
        events.append("block")
    assert events[1:] == ["start", "block", "stop"]
    assert run.energy.kwh == 2e-6
    assert run.energy.grams_per_kwh == pytest.approx(100)
    assert run.energy.grams == pytest.approx(2e-4)
    assert run.energy.watts == pytest.approx(2e-6 * 3.6e6 / 10)
    assert run.energy.seconds == 10
    assert not run.energy.estimate
    assert "measured by CodeCarbon: CPU by RAPL; the rest left out" in str(run.energy)


def test_measured_hands_the_overhead_on_and_gives_the_watts_without(codecarbon):
    options = codecarbon([CPU("intel_rapl")])
    with cost.measured("BRA", overhead=1.25, every=0.5) as run:
        pass
    assert options[0]["pue"] == 1.25
    assert options[0]["measure_power_secs"] == 0.5
    assert run.energy.watts * run.energy.overhead * 10 / 3.6e6 == pytest.approx(run.energy.kwh)


def test_measured_writes_sends_and_takes_nothing_from_elsewhere(codecarbon, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = codecarbon([CPU("intel_rapl")])
    with cost.measured("FRA"):
        pass
    assert options[0]["country_iso_code"] == "FRA"
    assert options[0]["output_methods"] == options[0]["output_handlers"] == []
    assert options[0]["emissions_endpoint"] is None
    assert options[0]["electricitymaps_api_token"] == ""
    assert options[0]["force_cpu_power"] is options[0]["force_carbon_intensity_g_co2e_kwh"] is None
    assert options[0]["allow_multiple_runs"] is True
    assert not list(tmp_path.iterdir())


def test_measured_counts_by_the_gpu_and_by_the_cpu_where_it_has_a_counter(codecarbon, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    codecarbon([CPU("cpu_load"), GPU()], gpu_energy=5e-6)
    with cost.measured("BRA") as alone:
        pass
    codecarbon([CPU("intel_rapl"), GPU()], gpu_energy=5e-6)
    with cost.measured("BRA") as both:
        pass
    assert alone.energy.kwh == 5e-6
    assert both.energy.kwh == pytest.approx(7e-6)
    assert "GPU by its driver's counter and CPU by RAPL" in str(both.energy)


@pytest.mark.parametrize(
    ("backend", "parts", "has"),
    [
        ("cpu", [CPU("constant")], "RAM, CPU constant,"),
        ("cpu", [CPU("cpu_load"), GPU()], "RAM, CPU cpu_load, GPU,"),
        ("gpu", [CPU("intel_rapl")], "RAM, CPU intel_rapl,"),
        ("tpu", [CPU("intel_rapl")], "RAM, CPU intel_rapl,"),
    ],
)
def test_measured_refuses_constants_and_models(codecarbon, monkeypatch, backend, parts, has):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    events = codecarbon(parts)
    message = rf"measured: expected a counter of the {backend.upper()}.*CodeCarbon has {has}.*jp\.cost\.estimate"
    with pytest.raises(RuntimeError, match=message), cost.measured("BRA"):
        pytest.fail("the block must not start")
    assert "start" not in events


def test_measured_refuses_a_counter_that_stands_still(codecarbon):
    codecarbon([CPU("intel_rapl")], cpu_energy=0.0)
    with pytest.raises(RuntimeError, match="measured: expected the counter of the CPU to move"), cost.measured("BRA"):
        pass


def test_measured_names_a_tracker_that_could_not_be_made(codecarbon):
    codecarbon([], fails=True)
    with pytest.raises(RuntimeError, match="measured: CodeCarbon 0 could not be set up"), cost.measured("BRA"):
        pass


def test_measured_stops_the_tracker_and_lets_an_error_of_the_block_through(codecarbon):
    events = codecarbon([CPU("intel_rapl")])
    with pytest.raises(KeyError, match="mine"), cost.measured("BRA") as run:
        raise KeyError("mine")
    assert events[1:] == ["start", "stop"]
    with pytest.raises(ValueError, match="energy: expected the measured block to be over"):
        _ = run.energy


def test_measured_has_no_energy_before_the_end(codecarbon):
    codecarbon([CPU("intel_rapl")])
    with cost.measured("BRA") as run, pytest.raises(ValueError, match="Read it after the block"):
        _ = run.energy


@pytest.mark.parametrize(
    ("country", "options", "message"),
    [
        ("XXX", {}, "country: expected one whose grid CodeCarbon knows, but got 'XXX'.*mean of the world"),
        ("br", {}, "country: expected an ISO 3166 code of three capitals"),
        ("BRA", {"overhead": 0.5}, "overhead: expected a power usage effectiveness of 1 or more"),
        ("BRA", {"every": 0.0}, "every: expected a finite number above 0"),
    ],
)
def test_measured_names_bad_input_before_anything_is_set_up(codecarbon, country, options, message):
    events = codecarbon([CPU("intel_rapl")])
    with pytest.raises(ValueError, match=message), cost.measured(country, **options):
        pass
    assert events == []


def test_measured_says_how_to_install_codecarbon(monkeypatch):
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    with (
        pytest.raises(ImportError, match=r"pip install 'codecarbon>=3\.3\.2'.*jp\.cost\.estimate"),
        cost.measured("BRA"),
    ):
        pass
