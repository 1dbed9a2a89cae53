package tpm2

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"testing"

	gotpm "github.com/google/go-tpm/tpm2"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
)

// These targets hold the parsers against go-tpm's, which reads the same structures
// by reflection. What is accepted here must mean the same there; go-tpm accepts
// more.

// softKey is a key of no TPM, which signs whatever the fuzzer makes up.
var softKey, softPublic = func() (*ecdsa.PrivateKey, []byte) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	point, err := key.PublicKey.Bytes() // 4, x, y
	if err != nil {
		panic(err)
	}
	return key, gotpm.Marshal(gotpm.TPMTPublic{
		Type: gotpm.TPMAlgECC, NameAlg: gotpm.TPMAlgSHA256,
		ObjectAttributes: gotpm.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, Restricted: true, SignEncrypt: true},
		Parameters: gotpm.NewTPMUPublicParms(gotpm.TPMAlgECC, &gotpm.TPMSECCParms{CurveID: gotpm.TPMECCNistP256,
			Scheme: gotpm.TPMTECCScheme{Scheme: gotpm.TPMAlgECDSA,
				Details: gotpm.NewTPMUAsymScheme(gotpm.TPMAlgECDSA, &gotpm.TPMSSigSchemeECDSA{HashAlg: gotpm.TPMAlgSHA256})}}),
		Unique: gotpm.NewTPMUPublicID(gotpm.TPMAlgECC, &gotpm.TPMSECCPoint{
			X: gotpm.TPM2BECCParameter{Buffer: point[1:33]}, Y: gotpm.TPM2BECCParameter{Buffer: point[33:]}}),
	})
}()

// softSign returns a TPMT_SIGNATURE of softKey.
func softSign(message []byte) []byte {
	digest := sha256.Sum256(message)
	r, s, err := ecdsa.Sign(rand.Reader, softKey, digest[:])
	if err != nil {
		panic(err)
	}
	head := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, algECDSA), uint16(evidence.SHA256))
	return appendSized(appendSized(head, r.FillBytes(make([]byte, 32))), s.FillBytes(make([]byte, 32)))
}

// softAttest returns a well-formed TPMS_ATTEST over these selections.
func softAttest(selections ...gotpm.TPMSPCRSelection) []byte {
	return gotpm.Marshal(gotpm.TPMSAttest{
		Magic: gotpm.TPMGeneratedValue, Type: gotpm.TPMSTAttestQuote,
		QualifiedSigner: gotpm.TPM2BName{Buffer: make([]byte, 34)},
		ExtraData:       gotpm.TPM2BData{Buffer: []byte("nonce")},
		ClockInfo:       gotpm.TPMSClockInfo{Clock: 1, ResetCount: 2, RestartCount: 3, Safe: true},
		FirmwareVersion: 4,
		Attested: gotpm.NewTPMUAttest(gotpm.TPMSTAttestQuote, &gotpm.TPMSQuoteInfo{
			PCRSelect: gotpm.TPMLPCRSelection{PCRSelections: selections},
			PCRDigest: gotpm.TPM2BDigest{Buffer: make([]byte, 32)}}),
	})
}

func sel(bank evidence.Bank, bits ...byte) gotpm.TPMSPCRSelection {
	return gotpm.TPMSPCRSelection{Hash: gotpm.TPMIAlgHash(bank), PCRSelect: bits}
}

// typed fails unless err is one of the two types that callers can act on.
func typed(t *testing.T, err error) {
	t.Helper()
	var deny *keystead.DenyError
	var format *keystead.FormatError
	if !errors.As(err, &deny) && !errors.As(err, &format) {
		t.Fatalf("want a DenyError or a FormatError, got %T: %v", err, err)
	}
}

func FuzzParsePublic(f *testing.F) {
	f.Add(softPublic)
	f.Add(appendSized(nil, softPublic)) // TPM2B_PUBLIC
	for _, t := range []gotpm.TPMTPublic{gotpm.RSAEKTemplate, gotpm.RSASRKTemplate, gotpm.ECCEKTemplate} {
		f.Add(gotpm.Marshal(t))
	}
	odd := gotpm.RSAEKTemplate
	odd.Unique = gotpm.NewTPMUPublicID(gotpm.TPMAlgRSA, &gotpm.TPM2BPublicKeyRSA{Buffer: bytes.Repeat([]byte{0xFF}, 256)})
	f.Add(gotpm.Marshal(odd))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParsePublic(b)
		if err != nil {
			typed(t, err)
			return
		}
		if int(binary.BigEndian.Uint16(b)) == len(b)-2 {
			b = b[2:]
		}
		other, err := gotpm.Unmarshal[gotpm.TPMTPublic](b)
		if err != nil {
			t.Fatalf("go-tpm does not read what is accepted here: %v", err)
		}
		if again := gotpm.Marshal(*other); !bytes.Equal(again, b) {
			t.Fatalf("go-tpm reads it as\n%x, not\n%x", again, b)
		}
		name, err := gotpm.ObjectName(other)
		if err != nil || !bytes.Equal(name.Buffer, p.Name()) {
			t.Fatalf("name %x, go-tpm says %x, %v", p.Name(), name, err)
		}
		if key, err := gotpm.Pub(*other); err != nil || !p.Key().(interface{ Equal(crypto.PublicKey) bool }).Equal(key) {
			t.Fatalf("key %v, go-tpm says %v, %v", p.Key(), key, err)
		}
		if p.CheckAttestationKey() == nil {
			if a := other.ObjectAttributes; !a.Restricted || !a.SignEncrypt || a.Decrypt || !a.FixedTPM || !a.FixedParent || !a.SensitiveDataOrigin {
				t.Fatalf("accepted as attestation key: %+v", a)
			}
		}
		_ = p.Algorithm()
		_ = p.Fingerprint()
	})
}

// FuzzVerifyQuote signs whatever it is given, so that the parser stands alone: an
// attacker who holds a suitable key can say anything.
func FuzzVerifyQuote(f *testing.F) {
	good := softAttest(sel(evidence.SHA256, 1, 2, 0x80))
	f.Add(good, softSign(good))
	f.Add(softAttest(sel(evidence.SHA384, 0xFF, 0xFF, 0xFF), sel(evidence.SHA256, 1, 0, 0)), []byte{})
	f.Add(softAttest(sel(evidence.SHA256, 1, 0, 0), sel(evidence.SHA256, 2, 0, 0)), []byte{0, 0x14, 0, 0x0B, 0, 1, 2})
	f.Add(softAttest(), softSign(nil))
	ak, err := ParsePublic(softPublic)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, attest, signature []byte) {
		if q, err := VerifyQuote(ak, attest, signature); err != nil {
			typed(t, err)
		} else if parsed, err := gotpm.Unmarshal[gotpm.TPMTSignature](signature); err != nil || !bytes.Equal(gotpm.Marshal(*parsed), signature) {
			t.Fatalf("go-tpm reads the accepted signature otherwise: %v, quote %+v", err, q)
		}
		q, err := VerifyQuote(ak, attest, softSign(attest))
		if err != nil {
			typed(t, err)
			return
		}
		other, err := gotpm.Unmarshal[gotpm.TPMSAttest](attest)
		if err != nil {
			t.Fatalf("go-tpm does not read what is accepted here: %v", err)
		}
		if again := gotpm.Marshal(*other); !bytes.Equal(again, attest) {
			t.Fatalf("go-tpm reads it as\n%x, not\n%x", again, attest)
		}
		info, err := other.Attested.Quote()
		if err != nil {
			t.Fatal(err)
		}
		c := other.ClockInfo
		if other.Magic != gotpm.TPMGeneratedValue || !bytes.Equal(other.ExtraData.Buffer, q.ExtraData) || other.FirmwareVersion != q.Firmware ||
			c.Clock != q.Clock || c.ResetCount != q.ResetCount || c.RestartCount != q.RestartCount || bool(c.Safe) != q.Safe ||
			!bytes.Equal(info.PCRDigest.Buffer, q.pcrDigest) || len(info.PCRSelect.PCRSelections) != len(q.selections) {
			t.Fatalf("read as %+v, go-tpm says %+v", q, other)
		}
		for i, s := range info.PCRSelect.PCRSelections {
			if evidence.Bank(s.Hash) != q.selections[i].bank || !bytes.Equal(s.PCRSelect, q.selections[i].pcrs[:]) {
				t.Fatalf("selection %d read as %v, go-tpm says %v", i, q.selections[i], s)
			}
		}
		if _, err := q.CheckPCRs([]evidence.PCRs{{Bank: evidence.SHA256}}); err == nil {
			t.Fatal("a quote holds without any value")
		}
	})
}
