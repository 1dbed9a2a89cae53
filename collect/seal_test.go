package collect

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
)

// boot extends a boot register as firmware would.
func boot(t *testing.T, tpm *TPM, pcr int, what byte) {
	t.Helper()
	digests := map[evidence.Bank][]byte{}
	for _, b := range []evidence.Bank{evidence.SHA256, evidence.SHA384} {
		digests[b] = bytes.Repeat([]byte{what}, b.Size())
	}
	if err := tpm.Extend(ctx, pcr, digests); err != nil {
		t.Fatal(err)
	}
}

func TestSealOverReboots(t *testing.T) {
	s := ownTPM(t)
	tpm := open(t, s.Socket)
	boot(t, tpm, 4, 1)
	secret := bytes.Repeat([]byte("secret!!"), MaxSecret/8)
	blobs := map[evidence.Bank][]byte{}
	for _, bank := range []evidence.Bank{evidence.SHA256, evidence.SHA384} {
		blob, err := tpm.Seal(ctx, secret, bank, BootPCRs())
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(blob, secret[:8]) {
			t.Error("the secret is in the blob")
		}
		blobs[bank] = blob
	}
	opens := func(when string) {
		t.Helper()
		for bank, blob := range blobs {
			if got, err := tpm.Unseal(ctx, blob); err != nil || !bytes.Equal(got, secret) {
				t.Errorf("%s, %v: got %q, %v", when, bank, got, err)
			}
		}
	}
	opens("at once")
	boot(t, tpm, 10, 1) // not among the registers
	opens("with another register changed")
	if err := s.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	boot(t, tpm, 4, 1)
	opens("after a reboot")

	if err := s.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	boot(t, tpm, 4, 2)
	boot(t, tpm, 7, 1)
	for bank, blob := range blobs {
		got, err := tpm.Unseal(ctx, blob)
		var d *keystead.DenyError
		if got != nil || !errors.As(err, &d) || len(d.Findings) != 2 {
			t.Fatalf("%v, after another boot: want two findings, got %q, %v", bank, got, err)
		}
		for i, pcr := range []string{"4", "7"} {
			f := d.Findings[i]
			if f.Reason != keystead.ReasonSealedStateChanged || f.Where != bank.String()+" PCR "+pcr || len(f.Want) != 2*bank.Size() || len(f.Got) != 2*bank.Size() || f.Want == f.Got {
				t.Errorf("want register %s with both values, got %+v", pcr, f)
			}
		}
	}
}

func TestSealedElsewhere(t *testing.T) {
	mine, other := open(t, shared.Socket), open(t, ownTPM(t).Socket)
	blob, err := mine.Seal(ctx, []byte("secret"), evidence.SHA256, BootPCRs())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := other.Unseal(ctx, blob); got != nil || !errors.Is(err, keystead.ReasonSealedElsewhere) {
		t.Errorf("another TPM: want sealed-elsewhere, got %q, %v", got, err)
	}
	s, err := parseSealed(blob)
	if err != nil {
		t.Fatal(err)
	}
	s.parent = bytes.Clone(s.parent)
	theirs, err := other.Seal(ctx, []byte("secret"), evidence.SHA256, BootPCRs())
	if err != nil {
		t.Fatal(err)
	}
	their, err := parseSealed(theirs)
	if err != nil {
		t.Fatal(err)
	}
	s.parent = their.parent // says that it is theirs
	if got, err := other.Unseal(ctx, s.encode()); got != nil || !errors.Is(err, keystead.ReasonSealedDamaged) {
		t.Errorf("another TPM, under its own name: want sealed-damaged, got %q, %v", got, err)
	}
}

// TestSealedAltered flips a bit in each byte and cuts the blob at each length.
func TestSealedAltered(t *testing.T) {
	tpm := open(t, shared.Socket)
	blob, err := tpm.Seal(ctx, []byte("secret"), evidence.SHA256, []int{0, 7})
	if err != nil {
		t.Fatal(err)
	}
	for n := range blob {
		var f *keystead.FormatError
		if got, err := tpm.Unseal(ctx, blob[:n]); got != nil || !errors.As(err, &f) {
			t.Errorf("cut to %d of %d bytes: want a FormatError, got %q, %v", n, len(blob), got, err)
		}
		bad := bytes.Clone(blob)
		bad[n] ^= 1
		got, err := tpm.Unseal(ctx, bad)
		if got != nil || !errors.As(err, &f) && !errors.Is(err, keystead.ReasonSealedDamaged) && !errors.Is(err, keystead.ReasonSealedElsewhere) {
			t.Errorf("byte %d altered: want a FormatError, sealed-damaged or sealed-elsewhere, got %q, %v", n, got, err)
		}
	}
}

// TestSealedValuesAreBound puts the registers' values of now into a blob that was
// sealed to others, and takes registers away.
func TestSealedValuesAreBound(t *testing.T) {
	s := ownTPM(t)
	tpm := open(t, s.Socket)
	blob, err := tpm.Seal(ctx, []byte("secret"), evidence.SHA256, BootPCRs())
	if err != nil {
		t.Fatal(err)
	}
	boot(t, tpm, 7, 1)
	forged, err := parseSealed(blob)
	if err != nil {
		t.Fatal(err)
	}
	if forged.registers, err = tpm.ReadPCRs(ctx, evidence.SHA256, BootPCRs()); err != nil {
		t.Fatal(err)
	}
	if got, err := tpm.Unseal(ctx, forged.encode()); got != nil || !errors.Is(err, keystead.ReasonSealedDamaged) {
		t.Errorf("other values: want sealed-damaged, got %q, %v", got, err)
	}
	forged, _ = parseSealed(blob)
	forged.registers.Value[7] = nil
	if got, err := tpm.Unseal(ctx, forged.encode()); got != nil || !errors.Is(err, keystead.ReasonSealedDamaged) {
		t.Errorf("without register 7: want sealed-damaged, got %q, %v", got, err)
	}
}

// TestSealRefuses wants misuse and an owner's password told in words.
func TestSealRefuses(t *testing.T) {
	tpm := open(t, ownTPM(t).Socket)
	for name, seal := range map[string]func() ([]byte, error){
		"nothing":     func() ([]byte, error) { return tpm.Seal(ctx, nil, evidence.SHA256, BootPCRs()) },
		"too much":    func() ([]byte, error) { return tpm.Seal(ctx, make([]byte, MaxSecret+1), evidence.SHA256, BootPCRs()) },
		"no register": func() ([]byte, error) { return tpm.Seal(ctx, []byte("s"), evidence.SHA256, nil) },
		"register 24": func() ([]byte, error) { return tpm.Seal(ctx, []byte("s"), evidence.SHA256, []int{24}) },
		"bank sha1":   func() ([]byte, error) { return tpm.Seal(ctx, []byte("s"), evidence.SHA1, []int{7}) },
	} {
		if blob, err := seal(); blob != nil || err == nil {
			t.Errorf("%s was sealed", name)
		}
	}
	_, err := tpm2.HierarchyChangeAuth{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		NewAuth: tpm2.TPM2BAuth{Buffer: []byte("password")}}.Execute(raw(tpm))
	if err != nil {
		t.Fatal(err)
	}
	var e *Error
	if _, err := tpm.Seal(ctx, []byte("s"), evidence.SHA256, BootPCRs()); !errors.As(err, &e) || !strings.Contains(e.Found, "owner hierarchy has a password") {
		t.Errorf("want the owner's password named, got %v", err)
	}
}

// TestSecretOffTheBus listens between program and TPM.
func TestSecretOffTheBus(t *testing.T) {
	secret := []byte("nobody on the bus reads this")
	var heard []byte
	tpm := open(t, listen(t, shared.Socket, func(b []byte) { heard = append(heard, b...) }))
	blob, err := tpm.Seal(ctx, secret, evidence.SHA256, BootPCRs())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := tpm.Unseal(ctx, blob); err != nil || !bytes.Equal(got, secret) {
		t.Fatalf("got %q, %v", got, err)
	}
	if len(heard) == 0 || bytes.Contains(heard, secret[:8]) {
		t.Errorf("of %d bytes heard, the secret is among them: %t", len(heard), bytes.Contains(heard, secret[:8]))
	}
}

func FuzzParseSealed(f *testing.F) {
	for _, bank := range []evidence.Bank{evidence.SHA256, evidence.SHA384} {
		s := &sealed{registers: evidence.PCRs{Bank: bank}, parent: make([]byte, 34), unique: make([]byte, 32), private: make([]byte, 100)}
		for _, i := range []int{0, 7, 23} {
			s.registers.Value[i] = make([]byte, bank.Size())
		}
		f.Add(s.encode())
	}
	f.Add([]byte(sealedKind))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseSealed(b)
		if err != nil {
			var e *keystead.FormatError
			if !errors.As(err, &e) {
				t.Errorf("%v", err)
			}
			return
		}
		if !bytes.Equal(s.encode(), b) {
			t.Errorf("two spellings of %x", b)
		}
		if _, err := s.public(); err != nil {
			t.Error(err)
		}
	})
}
