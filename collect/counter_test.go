package collect

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/key"
)

func undefine(t *testing.T, l link, index tpm2.TPMHandle) {
	t.Helper()
	pub, err := tpm2.NVReadPublic{NVIndex: index}.Execute(l)
	if err != nil {
		t.Fatal(err)
	}
	_, err = tpm2.NVUndefineSpace{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		NVIndex: tpm2.NamedHandle{Handle: index, Name: pub.NVName}}.Execute(l)
	if err != nil {
		t.Fatal(err)
	}
}

// TestCounterOnlyGrows, over calls, a reboot, and after somebody removed it.
func TestCounterOnlyGrows(t *testing.T) {
	s := ownTPM(t)
	tpm := open(t, s.Socket)
	if v, ok, err := tpm.Counter(ctx); ok || err != nil {
		t.Fatalf("of a new TPM: %d, %t, %v", v, ok, err)
	}
	first, err := tpm.Increment(ctx)
	if err != nil {
		t.Fatal(err)
	}
	second, err := tpm.Increment(ctx)
	if err != nil || second != first+1 {
		t.Fatalf("want %d, got %d, %v", first+1, second, err)
	}
	if err := s.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	if v, ok, err := tpm.Counter(ctx); v != second || !ok || err != nil {
		t.Errorf("after a reboot: want %d, got %d, %t, %v", second, v, ok, err)
	}
	undefine(t, raw(tpm), CounterIndex)
	if _, ok, err := tpm.Counter(ctx); ok || err != nil {
		t.Errorf("removed: %t, %v", ok, err)
	}
	if v, err := tpm.Increment(ctx); v <= second || err != nil {
		t.Errorf("made anew: want more than %d, got %d, %v", second, v, err)
	}
}

// TestForeignIndex puts something else where the counter should be.
func TestForeignIndex(t *testing.T) {
	tpm := open(t, ownTPM(t).Socket)
	_, err := tpm2.NVDefineSpace{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{NVIndex: CounterIndex, NameAlg: tpm2.TPMAlgSHA256, DataSize: 8,
			Attributes: tpm2.TPMANV{OwnerWrite: true, OwnerRead: true, AuthWrite: true, AuthRead: true, NoDA: true}})}.Execute(raw(tpm))
	if err != nil {
		t.Fatal(err)
	}
	var e *Error
	if _, err := tpm.Increment(ctx); !errors.As(err, &e) || !strings.Contains(e.Found, "is no counter") {
		t.Errorf("incremented: %v", err)
	}
	if _, _, err := tpm.Counter(ctx); !errors.As(err, &e) || !strings.Contains(e.Hint, "tpm2_nvundefine") {
		t.Errorf("read: %v", err)
	}
}

func TestCertify(t *testing.T) {
	tpm := open(t, shared.Socket)
	b := evidence.Binding{Purpose: evidence.PurposeNodeKey, Nonce: []byte("nonce"), SubjectKey: []byte("key")}
	for _, kind := range []AKType{AKECC, AKRSA} {
		c, err := tpm.Certify(ctx, b, kind, BootPCRs())
		if err != nil {
			t.Fatal(err)
		}
		ak, err := tpm.AK(ctx, kind)
		if err != nil {
			t.Fatal(err)
		}
		q, err := c.Verify(key.DigestAK(ak), b)
		if err != nil || len(q.PCRs()) != 8 {
			t.Fatalf("%v, %v", q, err)
		}
		other := b
		other.Purpose = evidence.PurposeShutdown
		if _, err := c.Verify(key.DigestAK(ak), other); !errors.Is(err, keystead.ReasonNonceMismatch) {
			t.Errorf("for another purpose: want nonce-mismatch, got %v", err)
		}
	}
}
