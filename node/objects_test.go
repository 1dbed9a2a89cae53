package node

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"strings"
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
	o := shelf(t, vfs.NewMem(), 100*leastObject, now)
	kept, left := shelve(t, o, "kept", now), shelve(t, o, "left", now)
	shelve(t, o, "left", now) // again: takes no more room
	if err := o.keep(kept); err != nil {
		t.Fatal(err)
	}
	shelve(t, o, "kept", now)
	if o.held != (held{leastObject, 1}) {
		t.Errorf("%v is held for what waits", o.held)
	}
	if err := o.sweep(now.Add(59 * time.Minute)); err != nil || !o.has(left) {
		t.Errorf("gone before its time: %v", err)
	}
	if err := o.sweep(now.Add(time.Hour)); err != nil || o.has(left) || o.held != (held{}) {
		t.Errorf("not gone: %v, %v", err, o.held)
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
	o := shelf(t, vfs.NewMem(), 10<<10, now)
	first := shelve(t, o, strings.Repeat("1", 8<<10), now)
	if _, err := o.put(bytes.NewReader([]byte("123")), now); !errors.Is(err, keystead.ReasonOverloaded) {
		t.Errorf("above the room: %v", err)
	}
	if o.held != (held{8 << 10, 1}) {
		t.Errorf("%v is held after a refusal", o.held)
	}
	if err := o.keep(first); err != nil {
		t.Fatal(err)
	}
	shelve(t, o, strings.Repeat("2", 10<<10), now)
	o = shelf(t, vfs.NewMem(), 2*MaxObject, now)
	if _, err := o.put(io.LimitReader(zeros{}, MaxObject+1), now); !errors.Is(err, keystead.ReasonTooLarge) {
		t.Errorf("above the bound: %v", err)
	}
	if o.held != (held{}) {
		t.Errorf("%v is held after a refusal", o.held)
	}
}

// TestObjectsAreCounted hands in empty and tiny objects, of which bytes are no bound: one
// address gets so many files, all together get so many, and the node itself has places left.
func TestObjectsAreCounted(t *testing.T) {
	now := time.Now()
	o := shelf(t, vfs.NewMem(), 1<<30, now)
	n, taken := 0, 0
	send := func(from netip.Addr) error {
		n++
		_, err := o.take(strings.NewReader(fmt.Sprint(n)), now, from)
		if err == nil {
			taken++
		}
		return err
	}
	for i := range 64 {
		from := netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})
		before := taken
		for range objectsEach + 1 {
			if err := send(from); err != nil {
				if !errors.Is(err, keystead.ReasonOverloaded) {
					t.Fatal(err)
				}
				break
			}
		}
		if taken-before > objectsEach {
			t.Errorf("%d were taken from one address", taken-before)
		}
	}
	if want := maxObjects - maxObjects/8; taken != want || o.held != (held{int64(want) * leastObject, want}) {
		t.Errorf("%d were taken from 64 addresses, want %d; %v are held", taken, want, o.held)
	}
	for range maxObjects / 8 {
		if err := send(netip.Addr{}); err != nil {
			t.Fatalf("the node's own, beside %v: %v", o.held, err)
		}
	}
	if err := send(netip.Addr{}); !errors.Is(err, keystead.ReasonOverloaded) {
		t.Errorf("one more: %v", err)
	}
}

// TestObjectsOfStrangers: who sends objects from one address leaves room for others', and all
// of them for those that the node fetches to judge a proposal.
func TestObjectsOfStrangers(t *testing.T) {
	now := time.Now()
	fs := vfs.NewMem()
	o := shelf(t, fs, 160*leastObject, now)
	addr := func(i byte) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, i}) }
	send := func(from netip.Addr, n int, want error) {
		t.Helper()
		content := make([]byte, n*leastObject)
		content[0], content[1] = byte(len(o.waiting)), from.As16()[15]
		if _, err := o.take(bytes.NewReader(content), now, from); !errors.Is(err, want) {
			t.Errorf("%d blocks from %v, beside %v: %v, want %v", n, from, o.held, err, want)
		}
	}
	send(addr(1), 50, nil)
	send(addr(1), 31, keystead.ReasonOverloaded)
	send(addr(1), 30, nil)
	send(addr(2), 40, nil)
	send(addr(3), 21, keystead.ReasonOverloaded)
	send(addr(3), 20, nil)
	send(addr(4), 2, keystead.ReasonOverloaded)
	if shelve(t, o, "fetched", now); o.held.bytes != 141*leastObject {
		t.Errorf("%v are held", o.held)
	}
	if err := o.sweep(now.Add(time.Hour)); err != nil || o.held != (held{}) || len(o.by) != 0 {
		t.Errorf("%v: %v are left, of %d addresses", err, o.held, len(o.by))
	}
	send(addr(4), 80, nil)
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

// TestObjectsAltered changes an object on the disk: it is not given out as what it was.
func TestObjectsAltered(t *testing.T) {
	fs, now := vfs.NewMem(), time.Now()
	o := shelf(t, fs, 100*leastObject, now)
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
		o := shelf(t, fs, 100*leastObject, now)
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
		o = shelf(t, after, 100*leastObject, now)
		for d, want := range map[keystead.Digest]string{kept: "kept", waits: "waits"} {
			if b, err := o.get(d); err != nil || string(b) != want {
				t.Errorf("seed %d: %q, %v; want %q", seed, b, err, want)
			}
		}
		if o.held != (held{leastObject, 1}) || o.has(keystead.Sum([]byte("half"))) {
			t.Errorf("seed %d: %v wait", seed, o.held)
		}
	}
}
