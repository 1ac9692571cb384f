"""The example service, driven through its page in a browser. Screenshots end in `build/screenshots`."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx
import pytest
from playwright.async_api import FileChooser, Page, async_playwright, expect

from aioresults.contrib.rabbitmq import Process, free_ports
from examples.fastapi_app.worker import PARALLEL
from tests.eventually import eventually

CHECKOUT = Path(__file__).parents[2]
SCREENSHOTS = CHECKOUT / "build" / "screenshots"
expect.set_options(timeout=60_000)  # milliseconds
POEM = "the sea, the sea and the long grey shore\n" * 400
# Every state that was shown, also those that were gone before the test could look.
KEEP_STATES = """
    window.seen = new Set();
    new MutationObserver(() => document.querySelectorAll(".state").forEach((each) => seen.add(each.textContent.trim())))
        .observe(document, {subtree: true, childList: true, characterData: true});
"""


@contextmanager
def running(command: list[str], log: Path, **env: str) -> Iterator[Process]:
    process = Process([sys.executable, *command], log=log, env=os.environ | {"PYTHONPATH": str(CHECKOUT)} | env)
    try:
        yield process
    finally:
        process.stop()


async def healthy(url: str, server: Process, log: Path) -> None:
    async def answers() -> bool:
        assert server.running, log.read_text()
        try:
            async with httpx.AsyncClient() as client:
                return (await client.get(f"{url}/health")).status_code == 200
        except httpx.TransportError:
            return False

    await eventually(answers, within=90)


@pytest.fixture
async def url(broker_url: str, tmp_path: Path) -> AsyncIterator[str]:
    """`make web`, on a broker inside the process, and on RabbitMQ with a worker process."""
    [port] = free_ports(1)
    log = tmp_path / "web.log"
    with running(["-m", "examples.fastapi_app"], log, AMQP_URL=broker_url, PORT=str(port)) as server:
        await healthy(f"http://127.0.0.1:{port}", server, log)
        yield f"http://127.0.0.1:{port}"
    assert "Traceback" not in log.read_text(), log.read_text()


@pytest.fixture
def problems() -> list[str]:
    """What the console of the browser says."""
    return []


@pytest.fixture
async def page(problems: list[str]) -> AsyncIterator[Page]:
    path = shutil.which("chromium")
    assert path is not None, "there is no chromium: .ci/setup browser"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = await browser.new_page(viewport={"width": 1100, "height": 900}, reduced_motion="reduce")
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        yield page
        await browser.close()


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Six texts, and a file that is none."""
    folder = tmp_path / "folder"
    (folder / "deeper").mkdir(parents=True)
    for number in range(1, 6):
        (folder / f"poem {number}.txt").write_text(POEM * number)
    (folder / "deeper" / "<b>empty.txt").touch()
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return folder


def client_of(url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, timeout=60)


async def screenshot(page: Page, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    await page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)


async def test_the_page(url: str, page: Page, files: Path, broker_url: str, problems: list[str]) -> None:
    where = broker_url.partition(":")[0]
    choosers: asyncio.Queue[FileChooser] = asyncio.Queue()
    page.on("filechooser", choosers.put_nowait)  # long before it is opened: only from then on it is caught
    await page.add_init_script(KEEP_STATES)
    await page.goto(url)
    await screenshot(page, f"{where}-1-empty")

    # By keyboard: the first thing behind the heading chooses files.
    await page.get_by_role("heading").click()  # or the focus may be outside the page, in the browser
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("button", name="Choose files")).to_be_focused()
    await page.keyboard.press("Enter")
    chooser = await asyncio.wait_for(choosers.get(), 30)
    # The worker has enough to do for the moment: the page listens before the worker comes to what it sends.
    async with client_of(url) as client:
        for number in range(PARALLEL):
            (await client.post("/files", params={"name": f"before {number}"}, content=POEM)).raise_for_status()
    await chooser.set_files([files / "poem 1.txt", files / "picture.png"])
    failing, task = page.locator(".task").nth(0), page.locator(".task").nth(1)

    # Progress, live.
    await expect(task.locator(".state")).to_have_text("done")
    seen = await page.evaluate("[...seen]")
    assert len([each for each in seen if each.endswith(" %")]) > 3, seen
    await expect(task.locator(".lines")).to_have_text("400")
    await expect(task.locator(".words")).to_have_text("3,600")
    await expect(task.locator(".common")).to_contain_text("shore 400")

    # A failure.
    await expect(failing).to_have_attribute("data-state", "failed")
    await expect(failing.locator(".error")).to_have_text("this is not UTF-8 text: byte 0 is 0x89")

    # A folder; and the page is loaded anew in the middle of it.
    await page.locator("#folder").set_input_files(files)
    await expect(page.locator(".task")).to_have_count(9)
    await expect(page.locator(".task[data-state=working]").first).to_be_visible()
    await screenshot(page, f"{where}-2-working")
    await expect(page.locator(".task[data-state=queued] .state", has_text="sending")).to_have_count(0)
    await page.reload()
    await expect(page.locator(".task")).to_have_count(9)
    await expect(page.locator("#summary")).to_have_text("9 files · 7 done · 2 failed")
    await expect(page.locator(".name", has_text="<b>empty.txt")).to_have_text("folder/deeper/<b>empty.txt")
    await page.reload()
    await expect(page.locator("#summary")).to_have_text("9 files · 7 done · 2 failed")
    await expect(failing.locator(".error")).to_be_visible()
    await screenshot(page, f"{where}-3-done")

    # On a phone.
    await page.set_viewport_size({"width": 390, "height": 844})
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    await screenshot(page, f"{where}-4-phone")
    await page.emulate_media(color_scheme="dark")
    await screenshot(page, f"{where}-5-phone-dark")

    # By hand: dropped.
    await page.get_by_role("button", name="Clear the list").click()
    await expect(page.locator(".task")).to_have_count(0)
    await page.evaluate(
        """() => {
            const transfer = new DataTransfer();
            transfer.items.add(new File(["one two"], "dropped.txt"));
            transfer.items.add(new File(["x".repeat(3 * 2 ** 20)], "large.txt"));
            const drop = new DragEvent("drop", {dataTransfer: transfer, bubbles: true});
            document.querySelector("#drop").dispatchEvent(drop);
        }"""
    )
    await expect(page.locator("#summary")).to_have_text("2 files · 1 done · 1 failed")
    await expect(page.locator(".error:visible")).to_have_text("this is larger than 2 MiB")
    await page.reload()
    await expect(page.locator("#summary")).to_have_text("2 files · 1 done · 1 failed")
    async with client_of(url) as client:
        answer = await client.post("/files", params={"name": "large.txt"}, content=b"x" * 3 * 2**20)
        assert (answer.status_code, answer.json()["detail"]) == (413, "this is larger than 2 MiB")
    assert problems == []


def workers_of(server: Process) -> set[int]:
    """Return the process of its worker; there is none for a moment when it has died."""
    return set(map(int, Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()))


async def test_what_happens_to_the_service_meanwhile(
    amqp_url: str, tmp_path: Path, page: Page, problems: list[str]
) -> None:
    """Its worker is killed, and then it is stopped and started: the page loses nothing, and says so."""
    [port] = free_ports(1)
    url, log = f"http://127.0.0.1:{port}", tmp_path / "log"
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(8):
        (texts / f"poem {number}.txt").write_text(f"{number}\n{POEM}")

    def web() -> AbstractContextManager[Process]:
        return running(["-m", "examples.fastapi_app"], log, AMQP_URL=amqp_url, PORT=str(port))

    working, done = page.locator(".task[data-state=working]"), page.locator(".task[data-state=done]")
    away = page.get_by_text("The service cannot be reached")
    with web() as server:
        await healthy(url, server, log)
        await page.goto(url)
        await page.locator("#folder").set_input_files(texts)
        await expect(working.first).to_be_visible()
        [killed] = workers_of(server)
        os.kill(killed, signal.SIGKILL)
        await expect(done.first).to_be_visible()
        await eventually(lambda: bool(workers_of(server) - {killed}))
        [worker] = workers_of(server)
        os.kill(server.pid, signal.SIGTERM)
        await eventually(lambda: not server.running)
        assert server.returncode == 0
        assert not Path(f"/proc/{worker}").exists()
    await page.locator("#files").set_input_files(texts / "poem 0.txt")
    await expect(away).to_be_visible()
    with web() as server:
        await healthy(url, server, log)
        await expect(page.locator("#summary")).to_have_text("9 files · 9 done")
        await expect(away).to_be_hidden()
    expected = ("resource: net::", "status of 503")  # no connection, or one to a service that is being stopped
    assert [each for each in problems if not any(text in each for text in expected)] == []


async def test_any_of_several_server_processes_answers_for_any_task(amqp_url: str, tmp_path: Path) -> None:
    [port] = free_ports(1)
    url, log = f"http://127.0.0.1:{port}", tmp_path / "log"
    serve = ["-m", "uvicorn", "examples.fastapi_app.app:app", "--workers", "2", "--port", str(port)]
    with (
        running(["-m", "examples.fastapi_app.worker"], tmp_path / "worker.log", AMQP_URL=amqp_url),
        running(serve, log, AMQP_URL=amqp_url) as server,
    ):
        await healthy(url, server, log)

        async def send(text: str) -> str:
            async with client_of(url) as client:  # a connection of its own: any process may get it
                return str((await client.post("/files", params={"name": text}, content=text)).json()["task_id"])

        async def status(task_id: str) -> tuple[int, object]:
            async with client_of(url) as client:
                answer = await client.get(f"/tasks/{task_id}")
                return answer.status_code, answer.json().get("result")

        ids = [await send(f"{number} words") for number in range(8)]

        async def all_done() -> bool:
            found = [await status(task_id) for task_id in ids]
            return all(isinstance(result, dict) and result.get("words") == 2 for _, result in found)

        await eventually(all_done, within=90)
        answers = await asyncio.gather(*(status(task_id) for task_id in ids * 10))
        assert [code for code, _ in answers] == [200] * len(answers)
        assert (await status("no-such-task"))[0] == 404
    assert log.read_text().count("Started server process") == 2
