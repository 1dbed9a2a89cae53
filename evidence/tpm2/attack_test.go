package tpm2_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"

	gotpm "github.com/google/go-tpm/tpm2"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/evidence/tpm2"
)

func plain(*gotpm.TPMTPublic) {}

// TestAlgorithms quotes with each kind of key that is accepted and swtpm makes.
func TestAlgorithms(t *testing.T) {
	sha := func(h gotpm.TPMIAlgHash) *gotpm.TPMSSigSchemeRSASSA { return &gotpm.TPMSSigSchemeRSASSA{HashAlg: h} }
	for name, edit := range map[string]func(*gotpm.TPMTPublic){
		"ecdsa-p256": plain,
		"ecdsa-p384": func(p *gotpm.TPMTPublic) {
			*p = eccTemplate(gotpm.TPMECCNistP384, gotpm.TPMAlgSHA384)
			p.NameAlg = gotpm.TPMAlgSHA384
		},
		"rsassa-2048": func(p *gotpm.TPMTPublic) {
			rsaTemplate(p, 2048, gotpm.TPMTRSAScheme{Scheme: gotpm.TPMAlgRSASSA, Details: gotpm.NewTPMUAsymScheme(gotpm.TPMAlgRSASSA, sha(gotpm.TPMAlgSHA512))})
		},
		"rsapss-2048": func(p *gotpm.TPMTPublic) {
			rsaTemplate(p, 2048, gotpm.TPMTRSAScheme{Scheme: gotpm.TPMAlgRSAPSS, Details: gotpm.NewTPMUAsymScheme(gotpm.TPMAlgRSAPSS, &gotpm.TPMSSigSchemeRSAPSS{HashAlg: gotpm.TPMAlgSHA256})})
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAttacker(t)
			key := a.key(edit)
			attest, signature := key.quote("nonce")
			ak := parse(t, key.public)
			if ak.Algorithm() != name || !bytes.Equal(ak.Name(), key.handle.Name.Buffer) {
				t.Errorf("want %s named %x, got %s named %x", name, key.handle.Name.Buffer, ak.Algorithm(), ak.Name())
			}
			q, err := tpm2.VerifyQuote(ak, attest, signature)
			if err != nil {
				t.Fatal(err)
			}
			covered, err := q.CheckPCRs(a.stated())
			if err != nil {
				t.Fatal(err)
			}
			if string(q.ExtraData) != "nonce" || !q.Endorsement || !slices.Equal(q.PCRs(), []int{1}) || !slices.Equal(q.Banks(), []evidence.Bank{evidence.SHA384, evidence.SHA256}) {
				t.Errorf("got %+v, registers %v of %v", q, q.PCRs(), q.Banks())
			}
			onlyCovered(t, covered)
			want := evidence.QuoteClaims{Banks: []string{"sha384", "sha256"}, PCRs: []int64{1}, Firmware: fmt.Sprintf("%016x", q.Firmware),
				ResetCount: int64(q.ResetCount), RestartCount: int64(q.RestartCount), Clock: int64(q.Clock), ClockSafe: q.Safe}
			if got := q.Claims(); q.Firmware == 0 || q.ResetCount == 0 || !reflect.DeepEqual(got, want) {
				t.Errorf("claims: want %+v, got %+v", want, got)
			}
		})
	}
}

// stated reads all registers of both banks: more than quote covers.
func (a attacker) stated() []evidence.PCRs {
	a.t.Helper()
	out := []evidence.PCRs{{Bank: evidence.SHA256}, {Bank: evidence.SHA384}}
	for n := range out {
		for i := range 8 {
			rsp, err := gotpm.PCRRead{PCRSelectionIn: gotpm.TPMLPCRSelection{PCRSelections: []gotpm.TPMSPCRSelection{
				{Hash: gotpm.TPMIAlgHash(out[n].Bank), PCRSelect: []byte{1 << i, 0, 0}}}}}.Execute(a.tpm)
			if err != nil {
				a.t.Fatal(err)
			}
			out[n].Value[i] = rsp.PCRValues.Digests[0].Buffer
		}
	}
	return out
}

func onlyCovered(t *testing.T, covered []evidence.PCRs) {
	t.Helper()
	want := map[evidence.Bank][]int{evidence.SHA384: {1}, evidence.SHA256: {0, 1, 2, 3}}
	for _, p := range covered {
		for i, v := range p.Value {
			if (v != nil) != slices.Contains(want[p.Bank], i) {
				t.Errorf("bank %v register %d: covered values must be the quoted ones, got %x", p.Bank, i, v)
			}
		}
	}
}

// TestHierarchyIsSeen quotes with a key of the owner's hierarchy, for which the TPM
// hides its counters.
func TestHierarchyIsSeen(t *testing.T) {
	a := newAttacker(t)
	a.hierarchy = gotpm.TPMRHOwner
	key := a.key(plain)
	attest, signature := key.quote("nonce")
	q, err := tpm2.VerifyQuote(parse(t, key.public), attest, signature)
	if err != nil {
		t.Fatal(err)
	}
	if c := q.Claims(); q.Endorsement || c.Firmware != "" || c.ResetCount != 0 || c.RestartCount != 0 {
		t.Errorf("a key of the owner's hierarchy: want no firmware and no counts, got %+v", c)
	}
}

// TestUnsuitableKeys has a real TPM make keys that prove nothing, and use them.
func TestUnsuitableKeys(t *testing.T) {
	for name, tc := range map[string]struct {
		edit func(*gotpm.TPMTPublic)
		got  string
	}{
		"not fixedTPM": {func(p *gotpm.TPMTPublic) { p.ObjectAttributes.FixedTPM, p.ObjectAttributes.FixedParent = false, false }, "not fixedTPM"},
		"sha1 scheme":  {func(p *gotpm.TPMTPublic) { *p = eccTemplate(gotpm.TPMECCNistP256, gotpm.TPMAlgSHA1) }, "a scheme over sha1"},
		"sha1 name":    {func(p *gotpm.TPMTPublic) { p.NameAlg = gotpm.TPMAlgSHA1 }, "a name by sha1"},
		"RSA of 1024 bits": {func(p *gotpm.TPMTPublic) {
			rsaTemplate(p, 1024, gotpm.TPMTRSAScheme{Scheme: gotpm.TPMAlgRSASSA, Details: gotpm.NewTPMUAsymScheme(gotpm.TPMAlgRSASSA, &gotpm.TPMSSigSchemeRSASSA{HashAlg: gotpm.TPMAlgSHA256})})
		}, "1024 bits"},
	} {
		t.Run(name, func(t *testing.T) {
			key := newAttacker(t).key(tc.edit)
			attest, signature := key.quote("nonce")
			_, err := tpm2.VerifyQuote(parse(t, key.public), attest, signature)
			demand(t, name, err, keystead.ReasonKeyUnsuitable)
			var deny *keystead.DenyError
			if errors.As(err, &deny) && !slices.ContainsFunc(deny.Findings, func(f keystead.Finding) bool { return f.Got == tc.got }) {
				t.Errorf("want a finding %q, got %v", tc.got, deny.Findings)
			}
		})
	}
}

// TestForgedByUnrestrictedKey signs a quote of the attacker's invention, inside
// the TPM, with a key that is real, fixed to the TPM and in the right hierarchy.
func TestForgedByUnrestrictedKey(t *testing.T) {
	a := newAttacker(t)
	attest, _ := a.key(plain).quote("nonce")
	free := a.key(func(p *gotpm.TPMTPublic) { p.ObjectAttributes.Restricted = false })
	forged := bytes.Replace(attest, []byte("nonce"), []byte("fresh"), 1)
	signature, err := free.sign(forged)
	if err != nil {
		t.Fatal(err)
	}
	_, err = tpm2.VerifyQuote(parse(t, free.public), forged, signature)
	demand(t, "unrestricted key", err, keystead.ReasonKeyUnsuitable)

	// Said to be restricted, it signs: but that key has another name, which no TPM activates.
	lie := setAttribute(free.public, 1<<16)
	if _, err := tpm2.VerifyQuote(parse(t, lie), forged, signature); err != nil {
		t.Fatalf("the lie is for the name to catch, and the signature holds: %v", err)
	}
	if bytes.Equal(parse(t, lie).Name(), free.handle.Name.Buffer) {
		t.Error("a key with other attributes must have another name")
	}
	if _, err := a.key(plain).sign(forged); err == nil {
		t.Error("swtpm let a restricted key sign a forged structure: the premise of attestation does not hold")
	}
}

func setAttribute(public []byte, bit uint32) []byte {
	out := bytes.Clone(public)
	binary.BigEndian.PutUint32(out[4:], binary.BigEndian.Uint32(out[4:])|bit)
	return out
}

// TestUnsuitableFindings demands every fault in its own finding.
func TestUnsuitableFindings(t *testing.T) {
	public := bytes.Clone(newAttacker(t).key(plain).public)
	binary.BigEndian.PutUint32(public[4:], 1<<17) // decrypt and nothing else
	err := parse(t, public).CheckAttestationKey()
	demand(t, "no attribute right", err, keystead.ReasonKeyUnsuitable)
	var deny *keystead.DenyError
	var got []string
	if errors.As(err, &deny) {
		for _, f := range deny.Findings {
			got = append(got, f.Got)
		}
	}
	want := []string{"not restricted", "not sign", "decrypt", "not fixedTPM", "not fixedParent", "not sensitiveDataOrigin"}
	if !slices.Equal(got, want) {
		t.Errorf("want findings %q, got %q", want, got)
	}
	demand(t, "zero key", (&tpm2.Public{}).CheckAttestationKey(), keystead.ReasonKeyUnsuitable)
	demand(t, "no key", (*tpm2.Public)(nil).CheckAttestationKey(), keystead.ReasonKeyUnsuitable)
	_, err = tpm2.VerifyQuote(&tpm2.Public{}, nil, nil)
	demand(t, "zero key's quote", err, keystead.ReasonKeyUnsuitable)
}

// TestAlteredQuotes changes each byte of a real quote and of its signature.
func TestAlteredQuotes(t *testing.T) {
	a := newAttacker(t)
	key := a.key(plain)
	attest, signature := key.quote("nonce")
	ak := parse(t, key.public)
	verify := func(attest, signature []byte) error {
		_, err := tpm2.VerifyQuote(ak, attest, signature)
		return err
	}
	if err := verify(attest, signature); err != nil {
		t.Fatal(err)
	}
	for i := range attest {
		if verify(flip(attest, i), signature) == nil {
			t.Errorf("attest with byte %d altered verifies", i)
		}
	}
	for i := range signature {
		if verify(attest, flip(signature, i)) == nil {
			t.Errorf("signature with byte %d altered verifies", i)
		}
	}
	nonce := bytes.Index(attest, []byte("nonce"))
	demand(t, "altered nonce", verify(flip(attest, nonce), signature), keystead.ReasonSignatureInvalid)
	demand(t, "altered PCR digest", verify(flip(attest, len(attest)-1), signature), keystead.ReasonSignatureInvalid)
	demand(t, "altered s", verify(attest, flip(signature, len(signature)-1)), keystead.ReasonSignatureInvalid)
	demandFormat(t, "wrong magic", verify(flip(attest, 0), signature), "tpms-attest", "magic")
	demandFormat(t, "attest extended", verify(append(bytes.Clone(attest), 0), signature), "tpms-attest", "end")
	demandFormat(t, "attest truncated", verify(attest[:len(attest)-1], signature), "tpms-attest", "pcrDigest")
	demandFormat(t, "signature extended", verify(attest, append(bytes.Clone(signature), 0)), "tpmt-signature", "end")
	demandFormat(t, "no signature", verify(attest, nil), "tpmt-signature", "sigAlg")

	sha1 := bytes.Clone(signature)
	binary.BigEndian.PutUint16(sha1[2:], uint16(evidence.SHA1))
	demand(t, "signature said to be over sha1", verify(attest, sha1), keystead.ReasonSignatureInvalid)
	other := a.public(func(p *gotpm.TPMTPublic) { p.ObjectAttributes.NoDA = false })
	_, err := tpm2.VerifyQuote(other, attest, signature)
	demand(t, "another key", err, keystead.ReasonSignatureInvalid)
}

func flip(b []byte, i int) []byte {
	out := bytes.Clone(b)
	out[i] ^= 1
	return out
}

// TestCertifyIsNoQuote offers another structure that the same key signed in earnest.
func TestCertifyIsNoQuote(t *testing.T) {
	key := newAttacker(t).key(plain)
	rsp, err := gotpm.Certify{ObjectHandle: key.handle, SignHandle: key.handle, QualifyingData: gotpm.TPM2BData{Buffer: []byte("nonce")},
		InScheme: gotpm.TPMTSigScheme{Scheme: gotpm.TPMAlgNull}}.Execute(key.tpm)
	if err != nil {
		t.Fatal(err)
	}
	_, err = tpm2.VerifyQuote(parse(t, key.public), rsp.CertifyInfo.Bytes(), gotpm.Marshal(rsp.Signature))
	demandFormat(t, "certify", err, "tpms-attest", "type")
}

// TestStatedPCRs states other values than the quoted ones.
func TestStatedPCRs(t *testing.T) {
	a := newAttacker(t)
	key := a.key(plain)
	attest, signature := key.quote("nonce")
	q, err := tpm2.VerifyQuote(parse(t, key.public), attest, signature)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name   string
		edit   func(p []evidence.PCRs)
		reason keystead.Reason // empty: accepted
	}{
		{"as they are", func(p []evidence.PCRs) {}, ""},
		{"an extra register", func(p []evidence.PCRs) { p[0].Value[23] = make([]byte, 32) }, ""},
		{"an uncovered register altered", func(p []evidence.PCRs) { p[0].Value[7] = []byte("short") }, ""},
		{"banks in another order", func(p []evidence.PCRs) { p[0], p[1] = p[1], p[0] }, ""},
		{"a value altered", func(p []evidence.PCRs) { p[0].Value[2] = flip(p[0].Value[2], 31) }, keystead.ReasonPCRMismatch},
		{"a value of the other bank altered", func(p []evidence.PCRs) { p[1].Value[1] = flip(p[1].Value[1], 0) }, keystead.ReasonPCRMismatch},
		{"two registers exchanged", func(p []evidence.PCRs) { v := &p[0].Value; v[1], v[2] = v[2], v[1] }, keystead.ReasonPCRMismatch},
		{"a value missing", func(p []evidence.PCRs) { p[0].Value[3] = nil }, keystead.ReasonEvidenceMissing},
		{"a bank missing", func(p []evidence.PCRs) { p[1].Bank = evidence.SHA512 }, keystead.ReasonEvidenceMissing},
		{"banks swapped", func(p []evidence.PCRs) { p[0].Bank, p[1].Bank = p[1].Bank, p[0].Bank }, keystead.ReasonPCRMismatch},
		{"a boundary moved", func(p []evidence.PCRs) {
			both := slices.Concat(p[0].Value[0], p[0].Value[1])
			p[0].Value[0], p[0].Value[1] = both[:31], both[31:]
		}, keystead.ReasonPCRMismatch},
	} {
		stated := a.stated()
		tc.edit(stated)
		covered, err := q.CheckPCRs(stated)
		if tc.reason != "" {
			demand(t, tc.name, err, tc.reason)
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
		}
		onlyCovered(t, covered)
	}
	_, err = new(tpm2.Quote).CheckPCRs(a.stated())
	demand(t, "zero quote", err, keystead.ReasonEvidenceMissing)
}
