"""Start the web app: `python app.py`, then open the address it prints."""

import argparse
import signal
import sys


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="demo", help="name of a preset or path of its .yaml")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:<number>")
    parser.add_argument("--host", help="address to listen on (default: this computer only)")
    parser.add_argument("--port", type=int, help="port to listen on (default: 7860 or the next)")
    parser.add_argument("--share", action="store_true", help="also open a public Gradio link")
    args = parser.parse_args()

    from ttmpref.studio import Studio
    from ttmpref.types import TtmprefError
    from ttmpref.ui import launch

    # Ended by a supervisor as by hand: temporary files are removed on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        studio = Studio.open(preset=args.preset, device=args.device)
        launch(studio, args.host, args.port, args.share)
    except (TtmprefError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
