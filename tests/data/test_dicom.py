"""DICOM through pydicom's lookup tables and windows; needs pydicom, except for the line without it."""

from io import BytesIO

import numpy as np
import pytest

from crosscale.contracts import InputSpec
from crosscale.data import names
from crosscale.data.decode import BadImage, decode
from crosscale.data.reading import read_picture

VALUES = np.arange(0, 4000, 25, dtype=np.uint16).reshape(10, 16)
MARK = bytes(128) + b"DICM"


def dicom(pixels=VALUES, bits=12, kind="MONOCHROME2", **tags):
    pydicom = pytest.importorskip("pydicom")
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    found = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    found.Rows, found.Columns = pixels.shape[:2]
    found.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    found.PhotometricInterpretation, found.PixelRepresentation = kind, 0
    found.BitsAllocated, found.BitsStored, found.HighBit = 8 * pixels.itemsize, bits, bits - 1
    found.PixelData = pixels.tobytes()
    if pixels.ndim == 3:
        found.PlanarConfiguration = 0
    for tag, value in tags.items():
        setattr(found, tag, value)
    stream = BytesIO()
    pydicom.dcmwrite(stream, found)
    return stream.getvalue()


def grey(data):
    return np.asarray(decode(data, 1, "a.dcm"))


def test_a_window_is_what_the_standard_says():
    """PS3.3 C.11.2.1.2.1: from black to white over center - 0.5 +- (width - 1) / 2, of rescaled values."""
    data = dicom(RescaleSlope="2", RescaleIntercept="-1000", WindowCenter=["1000", "40"], WindowWidth=["800", "10"])
    values = VALUES * 2.0 - 1000
    expected = np.clip((values - (1000 - 0.5)) / (800 - 1) + 0.5, 0, 1)
    np.testing.assert_array_equal(grey(data), np.rint(255 * expected.astype(np.float32)))
    deep = read_picture(InputSpec(channels=1, mean=(0.0,), std=(1.0,), pixels="float32"), data, "a.dcm")
    np.testing.assert_allclose(deep.array[..., 0], expected, atol=1e-6)


def test_without_a_window_the_values_span_black_to_white():
    expected = np.rint(255 * (VALUES / VALUES.max()).astype(np.float32))
    np.testing.assert_array_equal(grey(dicom()), expected)
    np.testing.assert_array_equal(grey(dicom(kind="MONOCHROME1")), 255 - expected)


def test_colours():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)
    found = np.asarray(decode(dicom(pixels, 8, "RGB"), 3, "a.dcm"))
    np.testing.assert_array_equal(found, pixels)


def test_files_that_cannot_be_read_are_one_line():
    pytest.importorskip("pydicom")
    data = dicom()
    for bad in (MARK, MARK + b"\x08\x00rubbish", data[:-100]):
        with pytest.raises(BadImage, match=r"^a\.dcm: (the DICOM file cannot be read|a DICOM file without)") as raised:
            grey(bad)
        assert "\n" not in str(raised.value)


def test_without_pydicom_the_remedy_is_named(monkeypatch):
    monkeypatch.setattr("crosscale.data.dicom.reads_dicom", lambda: False)
    monkeypatch.setattr(names, "reads_dicom", lambda: False)
    with pytest.raises(BadImage, match=r"DICOM is read where pydicom is installed: pip install 'crosscale\[dicom\]'"):
        grey(MARK)
    assert not names.is_picture("a.dcm")
    assert names.why_passed_over("a.DCM") == names.DICOM_REASON
    monkeypatch.setattr(names, "reads_dicom", lambda: True)
    assert names.is_picture("a.DCM")
    assert ".dicom" in names.extensions()
