"""The inverse-STFT vocoder: its framing is that of the mel front end, and it learns."""

import pytest
import torch
import torch.nn.functional as F

from tests.seeded import relative_error
from ttmpref.config import ISTFTVocoderConfig, MelConfig
from ttmpref.models.istft_vocoder import ISTFTVocoder, spreading
from ttmpref.models.mel import LogMel

SMALL = ISTFTVocoderConfig(num_mels=16, width=16, hidden=32, num_blocks=2, weights="unused")
MEL = MelConfig(num_mels=16)


@pytest.fixture
def vocoder() -> ISTFTVocoder:
    torch.manual_seed(0)
    return ISTFTVocoder(SMALL, MEL)


def test_overlap_add_inverts_the_mel_framing(vocoder: ISTFTVocoder) -> None:
    waveform = torch.randn(2, 20 * 512)
    pad = (2048 - 512) // 2
    padded = F.pad(waveform[:, None], (pad, pad), mode="reflect")[:, 0]
    spectrum = torch.stft(
        padded, 2048, 512, window=torch.hann_window(2048), center=False, return_complex=True
    )
    assert relative_error(vocoder.overlap_add(spectrum), waveform) < 1e-5


def test_every_mel_frame_becomes_one_hop_of_samples(vocoder: ISTFTVocoder) -> None:
    waveform = vocoder(torch.randn(3, 16, 7))
    assert waveform.shape == (3, 7 * 512)
    assert waveform.abs().max() <= 1.0


def test_a_batch_equals_its_clips_alone(vocoder: ISTFTVocoder) -> None:
    mel = torch.randn(2, 16, 9, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        together, alone = vocoder(mel), torch.cat([vocoder(mel[:1]), vocoder(mel[1:])])
    assert relative_error(together, alone) < 1e-4  # phases magnify rounding


def test_a_mel_of_the_wrong_width_is_refused(vocoder: ISTFTVocoder) -> None:
    with pytest.raises(ValueError, match="mel must be"):
        vocoder(torch.zeros(1, 15, 4))


def test_the_first_guess_of_a_flat_spectrum_is_flat() -> None:
    mel = LogMel(MelConfig()).basis @ torch.ones(1025, 1)  # the mel of magnitude one everywhere
    assert torch.allclose(spreading(MelConfig()) @ mel, torch.ones(1025, 1), atol=1e-4)


def test_a_front_end_with_another_framing_is_refused() -> None:
    with pytest.raises(ValueError, match="the vocoder expects mels"):
        ISTFTVocoder(SMALL, MelConfig(num_mels=16, hop_length=256))
