"""The review console in headless Chromium, with a real login."""

from __future__ import annotations

import pytest
from helpers.team import PASSWORD
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

pytestmark = pytest.mark.browser

WIDTHS = (1280, 390)
PAGES = ("/", "/models/desk", "/models/desk/versions/1?to=Production", "/requests", "/approvals",
         "/approvals?show=answered", "/safety", "/signals", "/audit", "/audit?source=registry",
         "/audit/requests/axe-request", "/nothing")  # fmt: skip


@pytest.fixture
def console(team, desk, browser):
    """Give a browser in which rita, who may also answer tool calls, has logged in."""

    class Console:
        def open(self, path="/", who="rita"):
            address = team.url.replace("://", f"://{who}:{PASSWORD}@")
            browser.get(f"{address}/agents{path}")
            return self

        def press(self, name):
            for button in browser.find_elements(By.TAG_NAME, "button"):
                if button.text == name and button.is_displayed():
                    button.click()
                    return self
            raise AssertionError(f"no button {name}: {self.text[:500]}")

        @property
        def text(self):
            return browser.find_element(By.TAG_NAME, "body").text

    return Console()


def wait_for(browser, text, seconds=60):
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.support.ui import WebDriverWait

    # The page that is being left goes away under the look.
    ignored = [StaleElementReferenceException]
    WebDriverWait(browser, seconds, 0.1, ignored_exceptions=ignored).until(
        lambda driver: text in driver.find_element(By.TAG_NAME, "body").text
    )


def serious(browser):
    """Return what axe finds serious about the page that is shown."""
    from axe_core_python.selenium import Axe

    return [
        (item["id"], [node["html"][:120] for node in item["nodes"]])
        for item in Axe().run(browser)["violations"]
        if item["impact"] in ("serious", "critical")
    ]


def another_version(team, name):
    """Log a version whose prompt differs."""
    import mlflow_agent_plugin as agents

    folder = team.folder / "sources" / name / name
    prompt = folder / "prompts" / "system.md"
    with team.acting("ann"):
        prompt.write_text(prompt.read_text() + "Be brief.\n")
        agents.log_agent(folder, registered_model_name=name)


def test_a_reviewer_promotes_and_rolls_back_with_the_mouse(team, console, browser):
    suite = team.register("mouse_desk")
    page = "/models/mouse_desk/versions/1?to=Production"
    console.open(page)
    assert "refused" in console.text
    for version in (1, 2):
        if version == 2:
            another_version(team, "mouse_desk")
        page = f"/models/mouse_desk/versions/{version}?to=Production"
        team.evaluate("mouse_desk", version, suite)
        console.open(page, "ann").press("Ask")
        wait_for(browser, "Asked to promote")
        console.open(page, "rita")
        if version == 2:
            assert "prompts/system.md" in console.text
            wait_for(browser, "The same as version 1's")
            assert browser.find_elements(By.CSS_SELECTOR, ".diagram svg")
        console.press(f"Approve version {version} for Production")
        wait_for(browser, f"Production is version {version} now")

    console.open("/models/mouse_desk")
    browser.find_element(By.TAG_NAME, "summary").click()
    reason = next(e for e in browser.find_elements(By.NAME, "reason") if e.is_displayed())
    reason.send_keys("too brief")
    console.press("Roll Production back")
    wait_for(browser, "Rolled Production back")
    assert "too brief" in console.text
    with team.acting("rita"):
        from mlflow import MlflowClient

        standing = MlflowClient().get_latest_versions("mouse_desk", ["Production"])
    assert [str(item.version) for item in standing] == ["1"]


def test_a_request_is_rejected_with_a_reason_its_author_reads(team, desk, console, browser):
    page = f"/models/{desk}/versions/1?to=@champion"
    console.open(page, "ann").press("Ask")
    wait_for(browser, "Asked to promote")
    console.open(page, "rita")
    card = browser.find_element(By.CSS_SELECTOR, "form[action$='/reject']")
    card.find_element(By.NAME, "reason").send_keys("no evidence yet")
    console.press("Reject")
    wait_for(browser, "Rejected version 1")
    console.open("/requests?state=rejected", "ann")
    assert "no evidence yet" in console.text


def test_somebody_talks_to_a_version_and_sees_its_trace(team, desk, console, browser):
    console.open(f"/models/{desk}/versions/1", "ann").press("Try this version")
    wait_for(browser, "Say something to it")
    browser.find_element(By.NAME, "text").send_keys("Where is my order A-1?")
    console.press("Send")
    wait_for(browser, "Order A-1 is on its way", 120)
    assert "tool find_order" in console.text
    assert serious(browser) == []
    console.press("End the trial")
    wait_for(browser, "The trial is over")


def test_waiting_tool_calls_appear_by_themselves_and_are_answered(team, console, browser):
    console.open("/approvals", "otto")
    team.waiting_call(tool="wire_transfer", arguments={"iban": "DE89 3704", "amount": 1200})
    wait_for(browser, "wire_transfer")  # htmx asks every three seconds; nobody reloads
    browser.find_element(By.LINK_TEXT, "wire_transfer").click()
    wait_for(browser, "Exactly this would run")
    assert serious(browser) == []
    console.press("Approve wire_transfer")
    wait_for(browser, "Approved wire_transfer")

    team.waiting_call(tool="wire_back", arguments={"iban": "DE89 3704"})
    wait_for(browser, "wire_back")
    browser.find_element(By.LINK_TEXT, "wire_back").click()
    wait_for(browser, "Exactly this would run")
    card = browser.find_element(By.CSS_SELECTOR, "form[action$='/reject']")
    card.find_element(By.NAME, "reason").send_keys("not that account")
    console.press("Reject")
    wait_for(browser, "Rejected wire_back")


def test_one_request_is_found_in_the_audit_by_keyboard(team, console, browser):
    from mlflow_agent_plugin.store import Store
    from mlflow_agent_plugin.trust import AuditKind, AuditLog

    with team.acting("ann"), Store.open(team.store_uri) as store, AuditLog(store) as audit:
        audit.append(AuditKind.REQUEST_RECEIVED, request_id="keyboard-request", session_id="k",
                     tenant="default", actor="customer-kb", agent="desk")  # fmt: skip
    console.open("/audit")
    browser.find_element(By.NAME, "actor").send_keys("customer-kb", Keys.ENTER)
    wait_for(browser, "keyboard-req")
    browser.find_element(By.PARTIAL_LINK_TEXT, "keyboard-req").send_keys(Keys.ENTER)
    wait_for(browser, "Take it along")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_on_any_page_at_any_width(team, desk, console, browser, scheme):
    from mlflow_agent_plugin.store import Store
    from mlflow_agent_plugin.trust import AuditKind, AuditLog

    waiting = team.waiting_call()
    with team.acting("ann"), Store.open(team.store_uri) as store, AuditLog(store) as audit:
        audit.append(AuditKind.TOOL_CALL_DECIDED, request_id="axe-request", session_id="axe",
                     tenant="default", actor="kim", agent="desk", call_id="c", tool="refund",
                     arguments={"amount": 5}, decision={"value": "deny", "policy_ids": ["p"]})  # fmt: skip
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
    )
    for path in (*PAGES, f"/approvals/{waiting.approval_id}"):
        console.open(path, "admin")
        for width in WIDTHS:
            browser.execute_cdp_cmd(
                "Emulation.setDeviceMetricsOverride",
                {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False},
            )
            assert serious(browser) == [], (path, width, scheme)
            wide = browser.execute_script("return document.documentElement.scrollWidth")
            assert wide <= width, f"{path} is {wide} px wide at {width}"
