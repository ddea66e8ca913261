"""The page of gpt-demo: what it computes, and that a browser shows it."""

import http.client
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from g_pt.commands import demo, demo_page
from g_pt.commands.demo_page import answers_figure, pictures, prompt_figure, table, update
from g_pt.networks.network_files import write_network

PAGE_SECONDS = 60


@pytest.fixture(scope="module")
def outcome():
    return update("digits-loss", 0.2, seed=3, num_samples=4)


def test_an_update_is_measured_before_and_after_on_the_test_split(outcome):
    pipeline = demo_page.load("digits-loss")
    generator = torch.Generator().manual_seed(3)
    start = pipeline.task.init(1, generator)
    after = pipeline(start.expand(4, -1), 0.2, generator=generator).params
    assert outcome.before["loss"] == pytest.approx(pipeline.task.evaluate(start, "test")["loss"].item())
    np.testing.assert_allclose(outcome.after["loss"], pipeline.task.evaluate(after, "test")["loss"], rtol=1e-5)
    with torch.no_grad():
        network = pipeline.task.network()
        network.load_state_dict(pipeline.layout.unflatten(after[0]))
        wanted = network(pipeline.task.splits["test"].inputs[: len(outcome.labels)]).argmax(dim=1)
    assert outcome.answers[1].tolist() == wanted.tolist()
    assert (outcome.answers[1] == outcome.labels).sum() > (outcome.answers[0] == outcome.labels).sum()


def test_images_are_shown_as_they_are(outcome):
    from sklearn.datasets import load_digits

    assert outcome.images.shape == (10, 8, 8)
    known = load_digits().images / 16
    assert min(np.abs(known - outcome.images[0]).max(axis=(1, 2))) < 1e-6
    assert pictures(torch.zeros(3, 7)) is None  # not a square: no images
    assert pictures(torch.rand(3, 3, 8, 8)).shape == (3, 8, 8, 3)


def test_figures_and_table_show_the_outcome(outcome):
    figure = prompt_figure([(0.2, outcome.after["loss"].tolist())], "digits-loss")
    points = figure.axes[0].collections[0].get_offsets()
    np.testing.assert_allclose(points[:, 1], outcome.after["loss"])
    titles = [axis.get_title() for axis in answers_figure(outcome).axes]
    assert titles == [str(answer) for answer in outcome.answers.flatten()]
    assert f"**{outcome.after['loss'].mean():.4g}**" in table(outcome, "digits-loss", 0.2)


def test_sliders_have_short_numbers():
    assert demo_page.slider_range(0.0953, 2.3376) == (0.1, 2.33, 0.01)
    assert demo_page.slider_range(9.36, 500.0) == (10, 500, 1)


def test_policies_have_no_images():
    outcome = update("cartpole-return", 500, seed=0, num_samples=2)
    assert answers_figure(outcome) is None
    assert outcome.after["return"].mean() > outcome.before["return"]


def test_without_gradio_the_command_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        demo.main([])
    assert 'pip install "g-pt[demo]"' in capsys.readouterr().err


@pytest.fixture
def browser():
    """A headless Chromium."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="the browser test needs selenium")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("the browser test needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1300,1250"):
        options.add_argument(argument)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield browser
    browser.quit()


def test_a_network_of_ones_own_is_the_start(outcome, tmp_path):
    layout = demo_page.load("digits-loss").layout
    write_network(tmp_path / "mine.safetensors", outcome.updated, layout)
    start = demo_page.read_start(str(tmp_path / "mine.safetensors"), "digits-loss")
    assert torch.equal(start, outcome.updated)
    again = update("digits-loss", 0.2, seed=3, num_samples=2, start_params=start)
    assert again.before["loss"] == pytest.approx(outcome.after["loss"][0], rel=1e-4)
    assert demo_page.read_start(None, "digits-loss") is None


@pytest.mark.parametrize(
    ("name", "tensors", "said"),
    [
        ("mine.pt", {}, "must be a .safetensors file"),
        ("mine.safetensors", {"fc1.weight": torch.zeros(3)}, "another architecture"),
        ("mine.safetensors", {}, "wanted but missing"),
        ("mine.safetensors", None, "NaN or infinity"),
    ],
)
def test_files_that_are_no_start_are_refused(name, tensors, said, tmp_path):
    layout = demo_page.load("digits-loss").layout
    if tensors is None:
        write_network(tmp_path / name, torch.full((layout.num_params,), torch.nan), layout)
    else:
        save_file(tensors, tmp_path / name)
    with pytest.raises(ValueError, match=said):
        demo_page.read_start(str(tmp_path / name), "digits-loss")


def test_a_policy_is_played_before_and_after(tmp_path, monkeypatch):
    pytest.importorskip("pygame", reason="drawing needs pygame")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    outcome = update("cartpole-return", 500, seed=0, num_samples=1)
    path = demo_page.film(outcome, "cartpole-return", seed=0)
    with Image.open(path) as film:
        assert film.n_frames > 100
    assert demo_page.film(update("digits-loss", 0.2, seed=0, num_samples=1), "digits-loss", seed=0) is None


def test_the_plot_has_the_range_of_the_models_prompts(outcome):
    low, high = demo_page.prompt_limits(demo_page.load("digits-loss"))
    axis = prompt_figure([(0.2, [0.2, 0.3])], "digits-loss").axes[0]
    assert axis.get_xlim() == pytest.approx((low * (low / high) ** 0.05, high * (high / low) ** 0.05))
    assert axis.get_ylim() == pytest.approx(axis.get_xlim())
    wide = prompt_figure([(0.2, [50.0, math.nan])], "digits-loss").axes[0]
    assert wide.get_ylim()[1] > 50


def test_a_range_of_one_prompt_has_room_to_drag(random_pipeline):
    random_pipeline.register_to_config(training={"attainable_range": [0.5, 0.5]})
    low, high = demo_page.prompt_limits(random_pipeline)
    assert low < 0.5 < high
    assert demo_page.slider_range(low, high)[2] > 0


def asked(address: str, host: str) -> int:
    """Status of an answer to a request that names a host."""
    connection = http.client.HTTPConnection(address.removeprefix("http://").rstrip("/"), timeout=30)
    connection.request("GET", "/config", headers={"Host": host})
    return connection.getresponse().status


def test_the_page_is_for_this_machine_alone(page):
    port = page.rstrip("/").rpartition(":")[2]
    assert asked(page, f"127.0.0.1:{port}") == 200
    assert asked(page, f"localhost:{port}") == 200
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "0.0.0.0", ""):
        assert asked(page, host) == 400, host


def test_no_variable_opens_a_public_link_and_uploads_are_gone_at_the_end(tmp_path):
    """The command as a user runs it, with an environment that would share the page."""
    pytest.importorskip("gradio", reason="the page needs gradio")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {**os.environ, "GRADIO_SHARE": "True", "GRADIO_SERVER_NAME": "0.0.0.0", "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "g_pt.commands.demo", "--port", str(port), "--json"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    ) as process:
        first = process.stdout.readline()
        address = json.loads(first)["address"] if first else process.stderr.read()
        assert address == f"http://127.0.0.1:{port}/"
        (uploads,) = tmp_path.glob("gpt-demo-*")
        import httpx

        small = httpx.post(f"{address}gradio_api/upload", files={"files": ("a.safetensors", b"0" * 100)}, timeout=60)
        assert small.status_code == 200
        assert list(uploads.rglob("a.safetensors"))
        large = httpx.post(
            f"{address}gradio_api/upload", files={"files": ("b.safetensors", bytes(70 << 20))}, timeout=60
        )
        assert large.status_code == 413
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=60)
    assert not list(tmp_path.glob("gpt-demo-*"))
    assert "public" not in (out + error)
    assert "share=True" not in (out + error)


def test_the_page_takes_a_file_and_updates_again(page, outcome, tmp_path):
    from gradio_client import Client, handle_file

    def before(name: str) -> float:
        """Loss of the network before, in the table that an event shows."""
        return float(client.predict("digits-loss", 0.2, 3, 1, api_name=name)[0].split("before |")[1].split("|")[0])

    client = Client(page, verbose=False, download_files=False)
    write_network(tmp_path / "mine.safetensors", outcome.updated, demo_page.load("digits-loss").layout)
    assert before("/show") == pytest.approx(outcome.before["loss"], rel=1e-3)
    client.predict(handle_file(str(tmp_path / "mine.safetensors")), "digits-loss", api_name="/upload")
    mine = before("/show")
    assert mine == pytest.approx(outcome.after["loss"][0], rel=1e-3)
    client.predict(api_name="/again")
    again = update("digits-loss", 0.2, 3, 1, update("digits-loss", 0.2, 3, 1, outcome.updated).updated)
    assert before("/show") == pytest.approx(again.before["loss"], rel=1e-3)
    client.predict(api_name="/anew")
    assert before("/show") == pytest.approx(outcome.before["loss"], rel=1e-3)
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(Exception, match="wanted but missing"):
        client.predict(handle_file(str(tmp_path / "other.safetensors")), "digits-loss", api_name="/upload")


@pytest.fixture
def page():
    """The address of the page, served in this process."""
    pytest.importorskip("gradio", reason="the page needs gradio")
    served = demo_page.build_page(["digits-loss", "digits-error"])
    address = demo.serve(served, None)
    yield address
    threading.Thread(target=served.close, daemon=True).start()


def test_a_browser_shows_the_page_and_another_prompt_changes_it(page, browser):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    def shown(other_than: float | None = None) -> float:
        """The prompt in the table, once there is one, or another one."""
        for _ in range(4 * PAGE_SECONDS):
            found = browser.find_elements(By.ID, "figures")
            if found and "achieved" in found[0].text and prompted(found[0].text) != other_than:
                return prompted(found[0].text)
            time.sleep(0.25)
        raise AssertionError("the page shows no result")

    browser.get(page)
    first = shown()
    assert len(browser.find_elements(By.CSS_SELECTOR, "#curve img, #curve canvas")) == 1
    assert len(browser.find_elements(By.CSS_SELECTOR, "#answers img, #answers canvas")) == 1
    prompt = browser.find_element(By.CSS_SELECTOR, "input[type=range]")
    prompt.send_keys(*[Keys.ARROW_RIGHT] * 40)
    browser.execute_script("arguments[0].dispatchEvent(new Event('pointerup', {bubbles: true}))", prompt)
    assert shown(other_than=first) == pytest.approx(first + 0.4)
    errors = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE" and page in entry["message"]]
    assert errors == []


def prompted(text: str) -> float:
    """The prompt in the table."""
    words = text.split()
    return float(words[words.index("prompted") + 1])
