"""One run or a sweep: python train.py target=qv_ffn model=mistral7b."""

from lorascope.cli.main import train

if __name__ == "__main__":
    train()
