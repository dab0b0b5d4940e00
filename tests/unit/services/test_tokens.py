from __future__ import annotations

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from services import tokens

KEY = ec.generate_private_key(ec.SECP256R1())
PEM = KEY.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
)


def test_a_token_says_for_whom_for_what_and_how_long() -> None:
    token = tokens.issue(PEM, "camera-1", device="front", lifetime_s=60)
    claims = jwt.decode(token, KEY.public_key(), ["ES256"], audience="transfer")
    assert (claims["sub"], claims["device"], claims["iss"]) == ("camera-1", "front", "estate")
    assert claims["exp"] - claims["iat"] == 60


def test_one_that_has_ended_is_no_good() -> None:
    with pytest.raises(jwt.ExpiredSignatureError):
        jwt.decode(
            tokens.issue(PEM, "x", lifetime_s=-5), KEY.public_key(), ["ES256"], audience="transfer"
        )
