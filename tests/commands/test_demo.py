"""The page of gpt-demo: what it computes, and that a browser shows it."""

import shutil
import threading
import time

import numpy as np
import pytest
import torch

from g_pt.commands import demo, demo_page
from g_pt.commands.demo_page import answers_figure, pictures, prompt_figure, table, update

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


@pytest.fixture
def page():
    """The address of the page, served in this process."""
    pytest.importorskip("gradio", reason="the page needs gradio")
    served = demo_page.build_page(["digits-loss", "digits-error"])
    _, address, _ = served.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", server_port=None)
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
