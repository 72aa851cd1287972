"""MLflow's own pages: its stage control and its alias editor meet the gate, and show its reasons."""

from __future__ import annotations

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from mlflow_agent_plugin.interaction.templates import write_agent

pytestmark = pytest.mark.browser

SECONDS = 60
CLASSIC = "_mlflow_user_setting_dismiss_next_model_registry_ui"
"""MLflow's switch "New model registry UI", where the browser keeps it."""


class VersionPage:
    """The page of a model version, as somebody with a mouse uses it."""

    def __init__(self, browser, url, name, version, *, classic):
        self._browser = browser
        browser.get(url)
        self._wait(lambda: browser.execute_script("return document.readyState") == "complete")
        for key, value in {
            CLASSIC: str(classic).lower(),
            # MLflow's assistant opens over the page on the first visit.
            "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
            "mlflow.assistant.panelOpen_v1": "false",
        }.items():
            browser.execute_script("localStorage.setItem(arguments[0], arguments[1])", key, value)
        browser.get(f"{url}/#/models/{name}/versions/{version}")
        browser.refresh()

    def choose_stage(self, stage):
        """Choose a stage in the stage menu, and say OK."""
        self.click("//*[contains(@class, 'stage-transition-dropdown')]")
        self.click(f"//*[@role='menuitem'][contains(., '{stage}')]")
        self.click("//*[@role='dialog']//button[normalize-space()='OK']")

    def open_alias_editor(self):
        self.click("//button[@title='Add aliases']")

    def save_alias(self, alias):
        """Type an alias in the open editor, and save."""
        box = self.find("//*[@role='dialog']//input[@role='combobox']")
        box.send_keys(alias, Keys.ENTER)
        self.click("//*[@role='dialog']//button[normalize-space()='Save aliases']")

    def find(self, path):
        return self._wait(lambda: self._browser.find_element(By.XPATH, path))

    def click(self, path):
        def attempt():
            self._browser.find_element(By.XPATH, path).click()
            return True

        self._wait(attempt)

    def text_of(self, path, containing):
        """Wait until an element says `containing`; return all it says, on one line."""

        def attempt():
            for element in self._browser.find_elements(By.XPATH, path):
                text = " ".join(element.text.split())
                if containing in text:
                    return text
            return None

        return self._wait(attempt)

    def _wait(self, attempt):
        """Wait until `attempt` gives something; React may replace elements while it looks."""
        from selenium.common.exceptions import WebDriverException

        return WebDriverWait(
            self._browser, SECONDS, poll_frequency=0.1, ignored_exceptions=[WebDriverException]
        ).until(lambda _driver: attempt())


def register(tmp_path, name):
    """Log and register the starter agent as `name`; return its suite."""
    import mlflow_agent_plugin as agents

    folder, suite = write_agent(name, tmp_path)
    agents.log_agent(folder, registered_model_name=name)
    return suite


def make_ready(name, suite, slot):
    """Give version 1 what its gate asks for, by the Python API."""
    import mlflow_agent_plugin as agents

    agents.evaluate(f"models:/{name}/1", [suite], workers=0, progress=False)
    agents.request_promotion(name, 1, to=slot, comment="first version", apply=False, by="ann")
    agents.approve(name, 1, to=slot, comment="evidence read", by="rita")


def test_the_stage_menu_is_refused_with_the_reasons_then_let_through(
    tmp_path, on_server, browser, picture
):
    from mlflow import MlflowClient

    suite = register(tmp_path, "order_desk")
    page = VersionPage(browser, on_server.url, "order_desk", 1, classic=True)
    page.choose_stage("Production")
    notice = "//*[contains(@class, 'notification-notice')]"
    said = page.text_of(notice, "PERMISSION_DENIED")
    assert "Production of order_desk may not point to version 1" in said
    assert "no evidence on suite order_desk" in said
    assert "[unmet] approvals: 1 by role reviewer" in said
    assert MlflowClient().get_model_version("order_desk", "1").current_stage == "None"
    picture("stage-refused")

    make_ready("order_desk", suite, "Production")
    page = VersionPage(browser, on_server.url, "order_desk", 1, classic=True)
    page.choose_stage("Production")
    page.text_of("//*[contains(@class, 'stage-transition-dropdown')]", "Production")
    assert MlflowClient().get_model_version("order_desk", "1").current_stage == "Production"
    picture("stage-promoted")


def test_the_alias_editor_is_refused_with_the_reasons_then_let_through(
    tmp_path, on_server, browser, picture
):
    from mlflow import MlflowClient

    suite = register(tmp_path, "parcel_desk")
    page = VersionPage(browser, on_server.url, "parcel_desk", 1, classic=False)
    page.open_alias_editor()
    page.save_alias("champion")
    said = page.text_of("//*[@role='dialog']//*[@role='alert']", "may not point")
    assert "@champion of parcel_desk may not point to version 1" in said
    assert "[unmet] approvals: 1 by role reviewer" in said
    assert MlflowClient().get_registered_model("parcel_desk").aliases == {}
    picture("alias-refused")

    make_ready("parcel_desk", suite, "@champion")
    page = VersionPage(browser, on_server.url, "parcel_desk", 1, classic=False)
    page.open_alias_editor()
    page.save_alias("champion")
    page.text_of("//*[@data-testid='descriptions-item-content']", "champion")
    assert MlflowClient().get_registered_model("parcel_desk").aliases == {"champion": "1"}
    picture("alias-set")


def test_the_version_page_shows_the_agent_and_what_its_gate_says(
    tmp_path, on_server, browser, picture
):
    register(tmp_path, "return_desk")
    page = VersionPage(browser, on_server.url, "return_desk", 1, classic=False)
    assert "irreversible" in page.text_of("//*[@data-testid='note-view-outer-container']", "tool")
    tags = page.text_of("//*[@data-testid='tags-section']", "agent.gate.Production")
    assert "refused: 3 unmet (suite, safety, approvals)" in tags
    assert "agent.digest" in tags
    page.find("//*[@data-testid='tags-section']").location_once_scrolled_into_view  # noqa: B018 - scrolls
    picture("version-tags")
