package daemon

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/keystead/keystead"
)

func shelf(t *testing.T, fs vfs.FS, limit int64, now time.Time) *objects {
	t.Helper()
	o, err := openObjects(fs, "objects", limit, time.Hour, now)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func shelve(t *testing.T, o *objects, content string, now time.Time) keystead.Digest {
	t.Helper()
	d, err := o.put(bytes.NewReader([]byte(content)), now)
	if err != nil || d != keystead.Sum([]byte(content)) {
		t.Fatalf("put %q: %v, %v", content, d, err)
	}
	return d
}

// TestObjects keeps some objects for good and lets others go.
func TestObjects(t *testing.T) {
	now := time.Now()
	o := shelf(t, vfs.NewMem(), 100, now)
	kept, left := shelve(t, o, "kept", now), shelve(t, o, "left", now)
	shelve(t, o, "left", now) // again: takes no more room
	if err := o.keep(kept); err != nil {
		t.Fatal(err)
	}
	shelve(t, o, "kept", now)
	if o.held != int64(len("left")) {
		t.Errorf("%d bytes are held for what waits", o.held)
	}
	if err := o.sweep(now.Add(59 * time.Minute)); err != nil || !o.has(left) {
		t.Errorf("gone before its time: %v", err)
	}
	if err := o.sweep(now.Add(time.Hour)); err != nil || o.has(left) || o.held != 0 {
		t.Errorf("not gone: %v, %d bytes", err, o.held)
	}
	if b, err := o.get(kept); err != nil || string(b) != "kept" {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := o.get(left); !errors.Is(err, keystead.ReasonObjectMissing) {
		t.Errorf("what is gone: %v", err)
	}
	if err := o.keep(left); !errors.Is(err, keystead.ReasonObjectMissing) {
		t.Errorf("keep what is gone: %v", err)
	}
}

// TestObjectsBounds fills the room for what waits, and hands in one that is too large.
func TestObjectsBounds(t *testing.T) {
	now := time.Now()
	o := shelf(t, vfs.NewMem(), 10, now)
	first := shelve(t, o, "12345678", now)
	if _, err := o.put(bytes.NewReader([]byte("123")), now); !errors.Is(err, keystead.ReasonOverloaded) {
		t.Errorf("above the room: %v", err)
	}
	if o.held != 8 {
		t.Errorf("%d bytes are held after a refusal", o.held)
	}
	if err := o.keep(first); err != nil {
		t.Fatal(err)
	}
	shelve(t, o, "1234567890", now)
	o = shelf(t, vfs.NewMem(), 2*MaxObject, now)
	if _, err := o.put(io.LimitReader(zeros{}, MaxObject+1), now); !errors.Is(err, keystead.ReasonTooLarge) {
		t.Errorf("above the bound: %v", err)
	}
	if o.held != 0 {
		t.Errorf("%d bytes are held after a refusal", o.held)
	}
}

// TestObjectsOfStrangers: who sends objects from one address leaves room for others', and all
// of them for those that the node fetches to judge a proposal.
func TestObjectsOfStrangers(t *testing.T) {
	now := time.Now()
	fs := vfs.NewMem()
	o := shelf(t, fs, 160, now)
	addr := func(i byte) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, i}) }
	send := func(from netip.Addr, n int, want error) {
		t.Helper()
		content := make([]byte, n)
		content[0], content[1] = byte(len(o.waiting)), from.As16()[15]
		if _, err := o.take(bytes.NewReader(content), now, from); !errors.Is(err, want) {
			t.Errorf("%d bytes from %v, beside %d: %v, want %v", n, from, o.held, err, want)
		}
	}
	send(addr(1), 50, nil)
	send(addr(1), 31, keystead.ReasonOverloaded)
	send(addr(1), 30, nil)
	send(addr(2), 40, nil)
	send(addr(3), 21, keystead.ReasonOverloaded)
	send(addr(3), 20, nil)
	send(addr(4), 2, keystead.ReasonOverloaded)
	if shelve(t, o, "fetched", now); o.held != 147 {
		t.Errorf("%d bytes are held", o.held)
	}
	if err := o.sweep(now.Add(time.Hour)); err != nil || o.held != 0 || len(o.by) != 0 {
		t.Errorf("%v: %d bytes are left, of %d addresses", err, o.held, len(o.by))
	}
	send(addr(4), 80, nil)
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

// TestObjectsAltered changes an object on the disk: it is not given out as what it was.
func TestObjectsAltered(t *testing.T) {
	fs, now := vfs.NewMem(), time.Now()
	o := shelf(t, fs, 100, now)
	d := shelve(t, o, "good", now)
	f, err := fs.Create(o.path(o.pending(), d), vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Write([]byte("evil"))
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := o.get(d); !errors.Is(err, keystead.ReasonStoreCorrupt) {
		t.Errorf("altered: %v", err)
	}
}

// TestObjectsCrash cuts the power at many moments: what was acknowledged is there
// and whole, and nothing half-written is under a name.
func TestObjectsCrash(t *testing.T) {
	now := time.Now()
	for seed := range uint64(50) {
		fs := vfs.NewCrashableMem()
		o := shelf(t, fs, 100, now)
		kept := shelve(t, o, "kept", now)
		if err := o.keep(kept); err != nil {
			t.Fatal(err)
		}
		waits := shelve(t, o, "waits", now)
		w, err := o.create(netip.Addr{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte("half")); err != nil {
			t.Fatal(err)
		}
		after := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: int(seed * 2), RNG: rand.New(rand.NewPCG(seed, 0))})
		o = shelf(t, after, 100, now)
		for d, want := range map[keystead.Digest]string{kept: "kept", waits: "waits"} {
			if b, err := o.get(d); err != nil || string(b) != want {
				t.Errorf("seed %d: %q, %v; want %q", seed, b, err, want)
			}
		}
		if o.held != int64(len("waits")) || o.has(keystead.Sum([]byte("half"))) {
			t.Errorf("seed %d: %d bytes wait", seed, o.held)
		}
	}
}
