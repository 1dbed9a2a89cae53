package tpm2_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"

	gotpm "github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence/tpm2"
	"github.com/keystead/keystead/internal/swtpm"
)

// live returns the socket of a software TPM for all tests here, started when the
// first of them asks: fuzzing and benchmarks need none.
var live = sync.OnceValues(func() (socket string, err error) {
	dir, err := os.MkdirTemp("", "ca-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	ca, err := swtpm.NewCA(dir)
	if err != nil {
		return "", err
	}
	tpm, err := ca.Start(context.Background())
	if err != nil {
		return "", err
	}
	stop = tpm.Stop
	return tpm.Socket, extendAll(tpm.Socket)
})

// stop ends the software TPM if there is one.
var stop = func() error { return nil }

func TestMain(m *testing.M) {
	code := m.Run()
	if err := stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// extendAll gives registers 0 to 7 values that differ from each other.
func extendAll(socket string) error {
	tpm, err := linuxudstpm.Open(socket)
	if err != nil {
		return err
	}
	defer tpm.Close()
	for i := range 8 {
		_, err := gotpm.PCREvent{PCRHandle: gotpm.AuthHandle{Handle: gotpm.TPMHandle(i), Auth: gotpm.PasswordAuth(nil)},
			EventData: gotpm.TPM2BEvent{Buffer: []byte{byte(i)}}}.Execute(tpm)
		if err != nil {
			return err
		}
	}
	return nil
}

// attacker is a TPM's owner, who can make any key and command that the TPM allows.
type attacker struct {
	t         testing.TB
	tpm       transport.TPM
	hierarchy gotpm.TPMHandle // that keys are made in
}

func newAttacker(t testing.TB) attacker {
	t.Helper()
	socket, err := live()
	if err != nil {
		t.Fatal(err)
	}
	tpm, err := linuxudstpm.Open(socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tpm.Close() })
	return attacker{t, tpm, gotpm.TPMRHEndorsement}
}

// ownedKey is a loaded primary key.
type ownedKey struct {
	attacker
	handle gotpm.AuthHandle
	public []byte // TPMT_PUBLIC
	flush  func() // at the test's end at the latest: a TPM holds three keys
}

// key makes a P-256 signing key whose template was changed by edit.
func (a attacker) key(edit func(*gotpm.TPMTPublic)) ownedKey {
	a.t.Helper()
	template := eccTemplate(gotpm.TPMECCNistP256, gotpm.TPMAlgSHA256)
	edit(&template)
	rsp, err := gotpm.CreatePrimary{PrimaryHandle: a.hierarchy, InPublic: gotpm.New2B(template)}.Execute(a.tpm)
	if err != nil {
		a.t.Fatal(err)
	}
	flush := sync.OnceFunc(func() {
		if _, err := (gotpm.FlushContext{FlushHandle: rsp.ObjectHandle}).Execute(a.tpm); err != nil {
			a.t.Error(err)
		}
	})
	a.t.Cleanup(flush)
	return ownedKey{a, gotpm.AuthHandle{Handle: rsp.ObjectHandle, Name: rsp.Name, Auth: gotpm.PasswordAuth(nil)}, rsp.OutPublic.Bytes(), flush}
}

// public makes a key as [attacker.key] does and keeps its public area only.
func (a attacker) public(edit func(*gotpm.TPMTPublic)) *tpm2.Public {
	a.t.Helper()
	key := a.key(edit)
	key.flush()
	return parse(a.t, key.public)
}

func eccTemplate(curve gotpm.TPMECCCurve, hash gotpm.TPMIAlgHash) gotpm.TPMTPublic {
	return gotpm.TPMTPublic{
		Type: gotpm.TPMAlgECC, NameAlg: gotpm.TPMAlgSHA256,
		ObjectAttributes: gotpm.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true,
			UserWithAuth: true, NoDA: true, Restricted: true, SignEncrypt: true},
		Parameters: gotpm.NewTPMUPublicParms(gotpm.TPMAlgECC, &gotpm.TPMSECCParms{
			CurveID: curve,
			Scheme: gotpm.TPMTECCScheme{Scheme: gotpm.TPMAlgECDSA,
				Details: gotpm.NewTPMUAsymScheme(gotpm.TPMAlgECDSA, &gotpm.TPMSSigSchemeECDSA{HashAlg: hash})},
		}),
	}
}

func rsaTemplate(t *gotpm.TPMTPublic, bits gotpm.TPMKeyBits, scheme gotpm.TPMTRSAScheme) {
	t.Type = gotpm.TPMAlgRSA
	t.Parameters = gotpm.NewTPMUPublicParms(gotpm.TPMAlgRSA, &gotpm.TPMSRSAParms{KeyBits: bits, Scheme: scheme})
}

// quote quotes register 0 to 3 of sha256 and 1 of sha384.
func (k ownedKey) quote(nonce string) (attest, signature []byte) {
	k.t.Helper()
	rsp, err := gotpm.Quote{SignHandle: k.handle, QualifyingData: gotpm.TPM2BData{Buffer: []byte(nonce)},
		InScheme: gotpm.TPMTSigScheme{Scheme: gotpm.TPMAlgNull},
		PCRSelect: gotpm.TPMLPCRSelection{PCRSelections: []gotpm.TPMSPCRSelection{
			{Hash: gotpm.TPMAlgSHA384, PCRSelect: []byte{2, 0, 0}},
			{Hash: gotpm.TPMAlgSHA256, PCRSelect: []byte{15, 0, 0}},
		}},
	}.Execute(k.tpm)
	if err != nil {
		k.t.Fatal(err)
	}
	return rsp.Quoted.Bytes(), gotpm.Marshal(rsp.Signature)
}

// sign signs a structure of the attacker's own, as keys do that are not restricted.
func (k ownedKey) sign(message []byte) (signature []byte, err error) {
	digest, err := gotpm.Hash{Data: gotpm.TPM2BMaxBuffer{Buffer: message}, HashAlg: gotpm.TPMAlgSHA256, Hierarchy: gotpm.TPMRHNull}.Execute(k.tpm)
	if err != nil {
		return nil, err
	}
	rsp, err := gotpm.Sign{KeyHandle: k.handle, Digest: digest.OutHash,
		InScheme:   gotpm.TPMTSigScheme{Scheme: gotpm.TPMAlgNull},
		Validation: gotpm.TPMTTKHashCheck{Tag: gotpm.TPMSTHashCheck, Hierarchy: gotpm.TPMRHNull},
	}.Execute(k.tpm)
	if err != nil {
		return nil, err
	}
	return gotpm.Marshal(rsp.Signature), nil
}

// demand fails the test unless err is a refusal for that reason alone, with want
// and got filled in.
func demand(t testing.TB, what string, err error, reason keystead.Reason) {
	t.Helper()
	var deny *keystead.DenyError
	if !errors.As(err, &deny) {
		t.Errorf("%s: want %s, got %v", what, reason, err)
		return
	}
	for _, f := range deny.Findings {
		if f.Reason != reason || f.Want == "" || f.Got == "" || f.Where == "" {
			t.Errorf("%s: want %s with want, got and where, got %+v", what, reason, f)
		}
	}
}

// demandFormat fails the test unless err names the format and field.
func demandFormat(t testing.TB, what string, err error, format, field string) {
	t.Helper()
	var f *keystead.FormatError
	if !errors.As(err, &f) || f.Format != format || f.Field != field {
		t.Errorf("%s: want a format error at %s %s, got %v", what, format, field, err)
	}
}
