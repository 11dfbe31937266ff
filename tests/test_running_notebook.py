"""Headless execution: this interpreter, without the user's settings, and no unknown parameter."""

import asyncio
import json
import sys
import tempfile
import time

import nbformat
import pytest
import zmq.asyncio
from jupyter_client.session import Session

from senet_lib.running.kernel import AttentiveChannel, own_kernel, private_connection
from senet_lib.running.notebook import UnknownParameter, execute


def write_notebook(path, *sources):
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    cells[0].metadata["tags"] = ["parameters"]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)


def test_user_settings_have_no_effect(tmp_path, monkeypatch):
    """Another environment's kernel of the same name, an IPython startup file, a matplotlibrc, a long TMPDIR."""
    spec = tmp_path / "jupyter" / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps({"argv": ["false"], "display_name": "other", "language": "python"}))
    startup = tmp_path / "ipython" / "profile_default" / "startup" / "00.py"
    startup.parent.mkdir(parents=True)
    startup.write_text("x = 'from the startup file'")
    settings = tmp_path / "matplotlibrc"
    settings.write_text("figure.facecolor: black\n")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("MATPLOTLIBRC", str(settings))
    source = tmp_path / "source.ipynb"
    facts = "a, sys.executable, 'x' in dir(), matplotlib.rcParams['figure.facecolor']"
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("long" * 25)))  # too long for the path of a socket
    (tmp_path / ("long" * 25)).mkdir()
    report = f"import json, sys, matplotlib\nprint(json.dumps([{facts}]))"
    write_notebook(source, "a = 1  # a number", report)
    executed = execute(source, tmp_path / "executed.ipynb", {"a": 2}, cwd=str(tmp_path / "jupyter"))
    text = executed.cells[-1].outputs[0].text
    assert json.loads(text) == [2, sys.executable, False, "white"]


def test_sockets_only_where_their_path_fits(tmp_path):
    for folder, ipc in (("/tmp/kernel-abc", True), (f"/tmp/{'x' * 95}", False), (f"/tmp/{'ü' * 50}", False)):
        assert (private_connection(folder).KernelManager.get("transport") == "ipc") == ipc, folder


def test_unknown_parameter_is_refused(tmp_path):
    write_notebook(tmp_path / "source.ipynb", "a = 1  # a number")
    with pytest.raises(UnknownParameter, match="source.ipynb.* b"):
        execute(tmp_path / "source.ipynb", tmp_path / "executed.ipynb", {"b": 2})
    assert not (tmp_path / "executed.ipynb").exists()


async def reply_during_a_send(kind):
    """What a channel of this kind returns, if a reply arrives while it waits, just before it sends again."""
    session, context = Session(key=b"key"), zmq.asyncio.Context()
    kernel, socket = zmq.Context.instance().socket(zmq.PAIR), context.socket(zmq.PAIR)
    port = kernel.bind_to_random_port("tcp://127.0.0.1")
    socket.connect(f"tcp://127.0.0.1:{port}")
    channel = kind(socket, session)
    try:
        channel.send(session.msg("first"))
        waiting = asyncio.ensure_future(channel.get_msg())
        await asyncio.sleep(0.1)  # now it waits for asyncio to wake it
        session.send(kernel, "reply")
        time.sleep(0.1)  # asyncio does not run until the reply has arrived and the next message is sent
        channel.send(session.msg("second"))
        return (await asyncio.wait_for(waiting, 60))["msg_type"]
    finally:
        kernel.close(0)
        context.destroy(0)


def test_reply_is_noticed_although_a_send_consumed_its_wake_up_call(tmp_path):
    assert asyncio.run(reply_during_a_send(AttentiveChannel)) == "reply"
    assert own_kernel(str(tmp_path))().client().shell_channel_class is AttentiveChannel


def test_notebook_with_an_output_widget(tmp_path):
    """nbclient answers this widget while it waits for the cell's reply."""
    widget = "import ipywidgets\no = ipywidgets.Output()\nwith o:\n    print('x')"
    write_notebook(tmp_path / "source.ipynb", "a = 1  # a number", widget, "print(o.outputs[0]['text'], end='')")
    executed = execute(tmp_path / "source.ipynb", tmp_path / "executed.ipynb", {})
    assert executed.cells[-1].outputs[0].text == "x\n"
