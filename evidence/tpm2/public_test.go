package tpm2

import (
	"errors"
	"testing"

	gotpm "github.com/google/go-tpm/tpm2"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
)

// TestSelections demands one place for each quoted register, and at least one.
func TestSelections(t *testing.T) {
	ak, err := ParsePublic(softPublic)
	if err != nil {
		t.Fatal(err)
	}
	seventeen := make([]gotpm.TPMSPCRSelection, 17)
	for i := range seventeen {
		seventeen[i] = sel(evidence.Bank(i+1), 1, 0, 0)
	}
	for _, tc := range []struct {
		name       string
		selections []gotpm.TPMSPCRSelection
		field      string
	}{
		{"none", nil, "pcrSelect count"},
		{"too many", seventeen, "pcrSelect count"},
		{"an empty one", []gotpm.TPMSPCRSelection{sel(evidence.SHA256, 1, 0, 0), sel(evidence.SHA384, 0, 0, 0)}, "pcrSelect"},
		{"a bank twice", []gotpm.TPMSPCRSelection{sel(evidence.SHA256, 1, 0, 0), sel(evidence.SHA256, 2, 0, 0)}, "pcrSelect"},
		{"two bytes", []gotpm.TPMSPCRSelection{sel(evidence.SHA256, 1, 0)}, "pcrSelect size"},
		{"four bytes", []gotpm.TPMSPCRSelection{sel(evidence.SHA256, 1, 0, 0, 0)}, "pcrSelect size"},
	} {
		attest := softAttest(tc.selections...)
		_, err := VerifyQuote(ak, attest, softSign(attest))
		var format *keystead.FormatError
		if !errors.As(err, &format) || format.Field != tc.field {
			t.Errorf("%s: want a format error at %s, got %v", tc.name, tc.field, err)
		}
	}
	for _, bank := range []evidence.Bank{evidence.SHA1, evidence.SHA512, 0x12} {
		attest := softAttest(sel(evidence.SHA256, 1, 0, 0), sel(bank, 1, 0, 0))
		q, err := VerifyQuote(ak, attest, softSign(attest))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := q.CheckPCRs(nil); !errors.Is(err, keystead.ReasonBankUnaccepted) {
			t.Errorf("bank %v beside an accepted one: want bank-unaccepted, got %v", bank, err)
		}
	}
}

// TestParsePublicRefuses names the field at fault.
func TestParsePublicRefuses(t *testing.T) {
	edit := func(at int, bytes ...byte) []byte {
		b := append([]byte(nil), softPublic...)
		copy(b[at:], bytes)
		return b
	}
	rsaKey := gotpm.RSAEKTemplate
	for name, tc := range map[string]struct {
		b     []byte
		field string
	}{
		"empty":               {nil, "type"},
		"a symmetric key":     {edit(0, 0, 0x25), "type"},
		"name by no hash":     {edit(2, 0, 0x10), "nameAlg"},
		"a long policy":       {edit(8, 0, 65), "authPolicy"},
		"another cipher":      {edit(10, 0, 0x13), "symmetric"},
		"ecdaa":               {edit(12, 0, 0x1A), "scheme"},
		"another curve":       {edit(16, 0, 5), "curveID"},
		"a point off curve":   {edit(len(softPublic)-1, softPublic[len(softPublic)-1]^1), "point"},
		"a long coordinate":   {edit(20, 0, 33), "x"},
		"something after it":  {append(edit(0), 0), "end"},
		"truncated":           {softPublic[:len(softPublic)-1], "y"},
		"too much":            {make([]byte, 2000), "whole"},
		"a modulus of zeros":  {gotpm.Marshal(rsaKey), "modulus"},
		"an RSA key too long": {edit(0, 0, 1, 0, 0x0B, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0x10, 0xFF, 0xF8), "keyBits"},
		"a small exponent":    {edit(0, 0, 1, 0, 0x0B, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0x10, 8, 0, 0, 0, 0, 3), "exponent"},
	} {
		_, err := ParsePublic(tc.b)
		var format *keystead.FormatError
		if !errors.As(err, &format) || format.Format != "tpm2-public" || format.Field != tc.field {
			t.Errorf("%s: want a format error at %s, got %v", name, tc.field, err)
		}
	}
}
