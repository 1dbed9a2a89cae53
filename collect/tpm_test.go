package collect

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
	evtpm2 "github.com/keystead/keystead/evidence/tpm2"
	"github.com/keystead/keystead/internal/swtpm"
)

var ctx = context.Background()

// TestEvidenceHolds collects from a live TPM what a verifier needs and takes each
// step of the verifier, for both kinds of attestation key.
func TestEvidenceHolds(t *testing.T) {
	tpm := open(t, shared.Socket)
	for name, kind := range map[string]AKType{"ecdsa-p256": AKECC, "rsassa-2048": AKRSA} {
		t.Run(name, func(t *testing.T) {
			nonce := []byte("a nonce of the verifier's")
			got, err := tpm.Quote(ctx, QuoteRequest{QualifyingData: nonce, AK: kind})
			if err != nil {
				t.Fatal(err)
			}
			ak := parsePublic(t, got.AKPublic)
			if ak.Algorithm() != name {
				t.Errorf("attestation key: want %s, got %s", name, ak.Algorithm())
			}
			q, err := evtpm2.VerifyQuote(ak, got.Attest, got.Signature)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(q.ExtraData, nonce) || !q.Endorsement || len(q.Banks()) != 2 || len(q.PCRs()) != 16 {
				t.Errorf("want the nonce, the endorsement hierarchy, 2 banks and 16 registers, got %+v %v %v", q, q.Banks(), q.PCRs())
			}
			stated, err := got.PCRBanks()
			if err != nil {
				t.Fatal(err)
			}
			covered, err := q.CheckPCRs(stated)
			if err != nil {
				t.Fatal(err)
			}
			if len(covered) != 2 || covered[0].Value[0] == nil || covered[0].Value[16] != nil {
				t.Errorf("want registers 0 to 15 of two banks, got %v", covered)
			}
			again, err := tpm.AK(ctx, kind)
			if err != nil || !bytes.Equal(again, got.AKPublic) {
				t.Errorf("the attestation key must be the same each time: %v", err)
			}
			checkActivation(t, tpm, kind, ak)
		})
	}
}

// checkActivation verifies the EK's certificate and has the TPM prove that it holds both keys.
func checkActivation(t *testing.T, tpm *TPM, kind AKType, ak *evtpm2.Public) {
	t.Helper()
	found, err := tpm.EK(ctx)
	if err != nil {
		t.Fatal(err)
	}
	ek := parsePublic(t, found.Public)
	id, err := evtpm2.VerifyEK(found.Chain, ek, evtpm2.Roots{Test: []*x509.Certificate{authority.Root}}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if !id.Software || id.Issuer != authority.Root.Subject.String() || id.Key != ek.Fingerprint() || id.Model != "swtpm" {
		t.Errorf("identity of the TPM: got %+v", id)
	}
	stranger, err := swtpm.NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := evtpm2.VerifyEK(found.Chain, ek, evtpm2.Roots{Test: []*x509.Certificate{stranger.Root}}, time.Now()); !errors.Is(err, keystead.ReasonEKUntrusted) {
		t.Errorf("another authority of the same name: want ek-untrusted, got %v", err)
	}
	secret := []byte("thirty-two bytes of great secret")
	blob, encrypted, err := evtpm2.MakeCredential(rand.Reader, ek, ak.Name(), secret)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := tpm.Activate(ctx, kind, blob, encrypted)
	if err != nil {
		t.Fatal(err)
	}
	if err := evtpm2.CheckCredential(secret, answer); err != nil {
		t.Error(err)
	}
}

// TestEKProfiles takes away one certificate after the other and puts others in
// their place, so that each profile is used and no certificate serves that should not.
func TestEKProfiles(t *testing.T) {
	s := ownTPM(t)
	profile := func(want string, certified bool) {
		t.Helper()
		tpm := open(t, s.Socket)
		ek, err := tpm.EK(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if ek.Profile != want || (len(ek.Chain) == 1) != certified {
			t.Fatalf("want profile %s, certificate %t, got %s, %d certificates", want, certified, ek.Profile, len(ek.Chain))
		}
		public, err := tpm.AK(ctx, AKECC)
		if err != nil {
			t.Fatal(err)
		}
		secret := []byte("secret")
		blob, encrypted, err := evtpm2.MakeCredential(rand.Reader, parsePublic(t, ek.Public), parsePublic(t, public).Name(), secret)
		if err != nil {
			t.Fatal(err)
		}
		// A TPM just opened, as after a restart of the program, must choose alike.
		answer, err := open(t, s.Socket).Activate(ctx, AKECC, blob, encrypted)
		if err != nil || !bytes.Equal(answer, secret) {
			t.Fatalf("%s: activation gives %q, %v", want, answer, err)
		}
	}
	tpm := raw(open(t, s.Socket))
	undefine := func(index tpm2.TPMHandle) {
		t.Helper()
		pub, err := tpm2.NVReadPublic{NVIndex: index}.Execute(tpm)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := (tpm2.NVUndefineSpace{AuthHandle: tpm2.TPMRHPlatform, NVIndex: tpm2.NamedHandle{Handle: index, Name: pub.NVName}}).Execute(tpm); err != nil {
			t.Fatal(err)
		}
	}
	profile("H-3 (ECC P-384)", true)
	undefine(0x01C00016)
	profile("L-1 (RSA 2048)", true)
	undefine(0x01C00002)
	profile("L-2 (ECC P-256)", false)

	ek, err := open(t, s.Socket).EK(ctx)
	if err != nil {
		t.Fatal(err)
	}
	writeNV(t, tpm, 0x01C0000A, append(certify(t, parsePublic(t, ek.Public).Key()), 0, 0, 0, 0)) // padded, as some are
	profile("L-2 (ECC P-256)", true)
	undefine(0x01C0000A)
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	writeNV(t, tpm, 0x01C0000A, certify(t, other.Public()))
	var e *Error
	if _, err := open(t, s.Socket).EK(ctx); !errors.As(err, &e) || !strings.Contains(e.Error(), "is of another key") {
		t.Errorf("a certificate of another key: want it named, got %v", err)
	}
	undefine(0x01C0000A)
	writeNV(t, tpm, 0x01C0000A, []byte("no certificate"))
	if _, err := open(t, s.Socket).EK(ctx); err == nil || !strings.Contains(err.Error(), "NV index 0x01c0000a holds no certificate") {
		t.Errorf("no certificate: want the index named, got %v", err)
	}
}

// certify returns a certificate of key by nobody in particular.
func certify(t *testing.T, key crypto.PublicKey) []byte {
	t.Helper()
	signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key, signer)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// writeNV stores data as a manufacturer does.
func writeNV(t *testing.T, l link, index tpm2.TPMHandle, data []byte) {
	t.Helper()
	_, err := tpm2.NVDefineSpace{AuthHandle: tpm2.TPMRHPlatform, PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{
		NVIndex: index, NameAlg: tpm2.TPMAlgSHA256, DataSize: uint16(len(data)),
		Attributes: tpm2.TPMANV{PlatformCreate: true, PPWrite: true, AuthRead: true, OwnerRead: true, NoDA: true},
	})}.Execute(l)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := tpm2.NVReadPublic{NVIndex: index}.Execute(l)
	if err != nil {
		t.Fatal(err)
	}
	for at := 0; at < len(data); at += nvChunk {
		_, err := tpm2.NVWrite{AuthHandle: tpm2.TPMRHPlatform, NVIndex: tpm2.NamedHandle{Handle: index, Name: pub.NVName},
			Data: tpm2.TPM2BMaxNVBuffer{Buffer: data[at:min(at+nvChunk, len(data))]}, Offset: uint16(at)}.Execute(l)
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestResetIsCounted(t *testing.T) {
	s := ownTPM(t)
	tpm := open(t, s.Socket)
	count := func() uint32 {
		t.Helper()
		got, err := tpm.Quote(ctx, QuoteRequest{QualifyingData: []byte("n")})
		if err != nil {
			t.Fatal(err)
		}
		q, err := evtpm2.VerifyQuote(parsePublic(t, got.AKPublic), got.Attest, got.Signature)
		if err != nil {
			t.Fatal(err)
		}
		return q.ResetCount
	}
	before := count()
	if err := s.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	if after := count(); after != before+1 {
		t.Errorf("reset count after one reboot: want %d, got %d", before+1, after)
	}
}

// TestErrorsHelp demands of each trouble what was found and what to do.
func TestErrorsHelp(t *testing.T) {
	dir, err := os.MkdirTemp("", "t-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	file, dead := filepath.Join(dir, "file"), filepath.Join(dir, "dead")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	open1 := func(path string) error { _, err := OpenTPM(path); return err }
	use := func(path string) error {
		tpm, err := OpenTPM(path)
		if err != nil {
			return err
		}
		_, err = tpm.AK(ctx, AKECC)
		return err
	}
	live := open(t, shared.Socket)
	_, sha1 := live.Quote(ctx, QuoteRequest{Banks: []evidence.Bank{evidence.SHA1}})
	for name, tc := range map[string]struct {
		err         error
		found, hint string
	}{
		"absent":        {open1(filepath.Join(dir, "absent")), "can not be opened", "name a TPM device"},
		"a file":        {open1(file), "can not be opened", "character device or a Unix socket"},
		"no permission": {openError("/dev/tpmrm0", &fs.PathError{Op: "open", Path: "/dev/tpmrm0", Err: fs.ErrPermission}), "can not be opened", "run as root"},
		"dead socket":   {use(dead), "does not answer", "start swtpm"},
		"sha1":          {sha1, "PCR bank sha1 is not active (active: sha256, sha384)", "tpm2_pcrallocate sha1:all"},
		"lockout":       {live.explain(tpm2.TPMRCLockout), "locked after failed", "lockout interval"},
		"own TPM":       {(&TPM{path: "/dev/tpm0", device: closer{}}).Extend(ctx, 10, nil), "this machine's own", "software TPM"},
	} {
		var e *Error
		if !errors.As(tc.err, &e) || !strings.Contains(e.Found, tc.found) || !strings.Contains(e.Hint, tc.hint) {
			t.Errorf("%s: want %q and hint %q, got %#v", name, tc.found, tc.hint, tc.err)
		}
	}
	if err := open1(file); !errors.Is(err, linuxtpm.ErrFileIsNotDevice) {
		t.Errorf("a file: want what lies beneath, got %v", err)
	}
}

// closer is a device that is never spoken to.
type closer struct{}

func (closer) Send([]byte) ([]byte, error) { return nil, errors.New("spoken to") }
func (closer) Close() error                { return nil }

// TestEndorsementPassword meets a hierarchy that its owner locked, on a live TPM.
func TestEndorsementPassword(t *testing.T) {
	tpm := open(t, ownTPM(t).Socket)
	_, err := tpm2.HierarchyChangeAuth{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)},
		NewAuth: tpm2.TPM2BAuth{Buffer: []byte("password")}}.Execute(raw(tpm))
	if err != nil {
		t.Fatal(err)
	}
	var e *Error
	if _, err := tpm.AK(ctx, AKECC); !errors.As(err, &e) || !strings.Contains(e.Found, "has a password") || !strings.Contains(e.Hint, "tpm2_changeauth") {
		t.Errorf("want the password named, with a hint, got %v", err)
	}
}

// TestContext demands that a call ends with its context, while the TPM is silent
// and while another call has the turn.
func TestContext(t *testing.T) {
	dir, err := os.MkdirTemp("", "t-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	silent, err := net.Listen("unix", filepath.Join(dir, "silent"))
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	tpm, err := OpenTPM(filepath.Join(dir, "silent"))
	if err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	if _, err := tpm.AK(short, AKECC); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a silent TPM: want the deadline, got %v", err)
	}
	<-tpm.turn
	if _, err := tpm.AK(short, AKECC); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a busy TPM: want the deadline, got %v", err)
	}
}

func parsePublic(t *testing.T, b []byte) *evtpm2.Public {
	t.Helper()
	p, err := evtpm2.ParsePublic(b)
	if err != nil {
		t.Fatalf("%v\n%s", err, hex.Dump(b))
	}
	return p
}
