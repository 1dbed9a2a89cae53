package node

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	gotpm "github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/collect"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/forger"
	"github.com/keystead/keystead/internal/swtpm"
	"github.com/keystead/keystead/replica"
)

// softTPMs starts n software TPMs for a test.
func softTPMs(t *testing.T, n int) (machines []*swtpm.TPM, tpms []*collect.TPM) {
	t.Helper()
	ca, err := swtpm.NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for range n {
		m, err := ca.Start(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { m.Stop() })
		tpm, err := collect.OpenTPM(m.Socket)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { tpm.Close() })
		machines, tpms = append(machines, m), append(tpms, tpm)
	}
	return machines, tpms
}

var state = replica.SealRecord{ID: 3, Start: 4, Term: 5, Vote: 1, Last: 99, Applied: 98}

func put(t *testing.T, s replica.Seal) {
	t.Helper()
	if err := s.Put(state); err != nil {
		t.Fatal(err)
	}
}

// serves wants the record accepted.
func serves(t *testing.T, s replica.Seal) {
	t.Helper()
	if got, ok, err := s.Take(); got != state || !ok || err != nil {
		t.Errorf("want the record, got %+v, %t, %v", got, ok, err)
	}
}

// refused wants the record refused.
func refused(t *testing.T, s replica.Seal, want keystead.Reason) {
	t.Helper()
	if got, ok, err := s.Take(); got != (replica.SealRecord{}) || ok || !errors.Is(err, want) {
		t.Errorf("want %s, got %+v, %t, %v", want, got, ok, err)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestTPMSealServesOnce: a record serves one restart, after a reboot too, and no
// copy of it serves ever after.
func TestTPMSealServesOnce(t *testing.T) {
	machines, tpms := softTPMs(t, 1)
	dir := t.TempDir()
	s := TPMSeal{TPM: tpms[0], FS: vfs.Default, Path: filepath.Join(dir, sealFile)}
	if _, ok, err := s.Take(); ok || err != nil {
		t.Errorf("no record: %t, %v", ok, err)
	}
	put(t, s)
	copyFile(t, s.Path, filepath.Join(dir, "first"))
	serves(t, s)
	if _, ok, err := s.Take(); ok || err != nil {
		t.Errorf("used: %t, %v", ok, err)
	}
	copyFile(t, filepath.Join(dir, "first"), s.Path)
	refused(t, s, keystead.ReasonRecordRolledBack)

	put(t, s)
	copyFile(t, s.Path, filepath.Join(dir, "second"))
	copyFile(t, filepath.Join(dir, "first"), s.Path)
	refused(t, s, keystead.ReasonRecordRolledBack)
	copyFile(t, filepath.Join(dir, "second"), s.Path)
	if err := machines[0].Restart(context.Background()); err != nil {
		t.Fatal(err)
	}
	serves(t, s)
}

// TestTPMSealOfAnotherBoot: a record of another state of the boot registers, which
// another system on this machine could have made, does not serve.
func TestTPMSealOfAnotherBoot(t *testing.T) {
	_, tpms := softTPMs(t, 1)
	s := TPMSeal{TPM: tpms[0], FS: vfs.Default, Path: filepath.Join(t.TempDir(), sealFile)}
	put(t, s)
	digest := map[evidence.Bank][]byte{evidence.SHA256: make([]byte, 32)}
	if err := tpms[0].Extend(context.Background(), 4, digest); err != nil {
		t.Fatal(err)
	}
	refused(t, s, keystead.ReasonSealedStateChanged)
	fewer := s
	fewer.PCRs = []int{0, 7}
	put(t, fewer)
	refused(t, s, keystead.ReasonSealedStateChanged)
}

// TestTPMSealElsewhere copies disk and record to a machine whose counter is brought
// to the same value, and takes the counter away.
func TestTPMSealElsewhere(t *testing.T) {
	machines, tpms := softTPMs(t, 2)
	path := filepath.Join(t.TempDir(), sealFile)
	mine, other := TPMSeal{TPM: tpms[0], FS: vfs.Default, Path: path}, TPMSeal{TPM: tpms[1], FS: vfs.Default, Path: path}
	put(t, mine)
	refused(t, other, keystead.ReasonSealedElsewhere) // its counter was never incremented
	count, _, err := tpms[0].Counter(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for n := uint64(0); n < count; {
		if n, err = tpms[1].Increment(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	refused(t, other, keystead.ReasonSealedElsewhere)

	undefineCounter(t, machines[0].Socket)
	refused(t, mine, keystead.ReasonRecordRolledBack)
	if _, err := tpms[0].Increment(context.Background()); err != nil { // made anew, to count from the start
		t.Fatal(err)
	}
	refused(t, mine, keystead.ReasonRecordRolledBack)
}

// undefineCounter removes the counter, as its owner may.
func undefineCounter(t *testing.T, socket string) {
	t.Helper()
	tpm, err := linuxudstpm.Open(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer tpm.Close()
	pub, err := gotpm.NVReadPublic{NVIndex: gotpm.TPMHandle(collect.CounterIndex)}.Execute(tpm)
	if err != nil {
		t.Fatal(err)
	}
	_, err = gotpm.NVUndefineSpace{AuthHandle: gotpm.AuthHandle{Handle: gotpm.TPMRHOwner, Auth: gotpm.PasswordAuth(nil)},
		NVIndex: gotpm.NamedHandle{Handle: collect.CounterIndex, Name: pub.NVName}}.Execute(tpm)
	if err != nil {
		t.Fatal(err)
	}
}

// TestTPMSealForged alters the record and its certification.
func TestTPMSealForged(t *testing.T) {
	_, tpms := softTPMs(t, 1)
	s := TPMSeal{TPM: tpms[0], FS: vfs.Default, Path: filepath.Join(t.TempDir(), sealFile)}
	put(t, s)
	good, err := os.ReadFile(s.Path)
	if err != nil {
		t.Fatal(err)
	}
	r, err := parseShutdown(good)
	if err != nil {
		t.Fatal(err)
	}
	write := func(b []byte) {
		t.Helper()
		if err := os.WriteFile(s.Path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	altered := *r
	altered.state.Last--
	write(altered.encode())
	refused(t, s, keystead.ReasonSealedDamaged)
	quote, err := tpms[0].Certify(context.Background(), evidence.Binding{Purpose: evidence.PurposeVerify, Nonce: altered.binding().Nonce}, s.AK, collect.BootPCRs())
	if err != nil {
		t.Fatal(err)
	}
	altered.cert = quote // of another purpose, as the TPM gives to whoever asks
	write(altered.encode())
	refused(t, s, keystead.ReasonSealedDamaged)
	altered.cert = forger.New(1).Certify(altered.binding())
	write(altered.encode())
	refused(t, s, keystead.ReasonSealedElsewhere)
	altered.cert.AKPublic = r.cert.AKPublic
	write(altered.encode())
	refused(t, s, keystead.ReasonSealedDamaged)
	for n := range good {
		write(good[:n])
		var f *keystead.FormatError
		if _, ok, err := s.Take(); ok || !errors.As(err, &f) {
			t.Errorf("cut to %d bytes: want a FormatError, got %t, %v", n, ok, err)
		}
	}
	write(good)
	serves(t, s)
}

// brokenFS fails at one operation.
type brokenFS struct {
	vfs.FS
	create, rename, remove bool
}

var errBroken = errors.New("broken disk")

func (b brokenFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if b.create {
		return nil, errBroken
	}
	return b.FS.Create(name, c)
}

func (b brokenFS) Rename(from, to string) error {
	if b.rename {
		return errBroken
	}
	return b.FS.Rename(from, to)
}

func (b brokenFS) Remove(name string) error {
	if b.remove {
		return errBroken
	}
	return b.FS.Remove(name)
}

// TestTPMSealInterrupted stops between the counter and the file, in each order: what
// is left never serves.
func TestTPMSealInterrupted(t *testing.T) {
	machines, tpms := softTPMs(t, 1)
	s := TPMSeal{TPM: tpms[0], FS: vfs.Default, Path: filepath.Join(t.TempDir(), sealFile)}
	for name, fs := range map[string]brokenFS{"create": {FS: vfs.Default, create: true}, "rename": {FS: vfs.Default, rename: true}} {
		put(t, s)
		broken := s
		broken.FS = fs
		if err := broken.Put(state); !errors.Is(err, errBroken) {
			t.Errorf("%s: the record was kept, %v", name, err)
		}
		refused(t, s, keystead.ReasonRecordRolledBack) // the one before
	}
	put(t, s)
	broken := s
	broken.FS = brokenFS{FS: vfs.Default, remove: true}
	if _, ok, err := broken.Take(); ok || !errors.Is(err, errBroken) {
		t.Errorf("the file stayed, and the record served: %t, %v", ok, err)
	}
	refused(t, s, keystead.ReasonRecordRolledBack)

	put(t, s)
	if err := machines[0].Stop(); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := s.Take(); ok || err == nil {
		t.Errorf("without the TPM, the record served: %t, %v", ok, err)
	}
	if err := s.Put(state); err == nil {
		t.Error("without the TPM, a record was kept")
	}
}

// TestTPMSealOfStore closes a store in order and opens it again; then the same
// directory, store and record, is brought back from before.
func TestTPMSealOfStore(t *testing.T) {
	_, tpms := softTPMs(t, 1)
	dir := t.TempDir()
	open := func() *replica.Store {
		t.Helper()
		s, err := replica.OpenStore(replica.StoreOptions{FS: vfs.Default, Dir: filepath.Join(dir, "node", storeDir), Machine: &machine{heard: func(heard) {}}})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	if err := os.MkdirAll(filepath.Join(dir, "node"), 0o700); err != nil {
		t.Fatal(err)
	}
	seal := TPMSeal{TPM: tpms[0], FS: vfs.Default, Path: filepath.Join(dir, "node", sealFile)}
	s := open()
	if err := s.Bootstrap(1, []replica.Member{{Key: keystead.Sum([]byte("n1"))}}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Seal(seal), s.Close()); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(dir, "old"), os.DirFS(filepath.Join(dir, "node"))); err != nil {
		t.Fatal(err)
	}
	s = open()
	if err := s.Unseal(seal); err != nil {
		t.Errorf("after a clean stop: %v", err)
	}
	if err := errors.Join(s.Seal(seal), s.Close(), os.RemoveAll(filepath.Join(dir, "node")), os.Rename(filepath.Join(dir, "old"), filepath.Join(dir, "node"))); err != nil {
		t.Fatal(err)
	}
	s = open()
	defer s.Close()
	if err := s.Unseal(seal); !errors.Is(err, keystead.ReasonRecordRolledBack) {
		t.Errorf("a directory of before: want record-rolled-back, got %v", err)
	}
}

func FuzzParseShutdown(f *testing.F) {
	r := shutdownRecord{count: 7, state: state}
	r.cert = forger.New(1).Certify(r.binding())
	f.Add(r.encode())
	f.Add([]byte(shutdownKind))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseShutdown(b)
		if err == nil && !bytes.Equal(r.encode(), b) {
			t.Errorf("two spellings of %x", b)
		}
		var e *keystead.FormatError
		if err != nil && !errors.As(err, &e) {
			t.Errorf("%v", err)
		}
	})
}
