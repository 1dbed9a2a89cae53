package node

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/archive"
)

func openShelf(t *testing.T, fs vfs.FS, quota int64) *archives {
	t.Helper()
	a, err := openArchives(fs, "archive", quota)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// deposit archives a record of so many bytes, and returns its name.
func deposit(t *testing.T, a *archives, host string, at uint64, size int) keystead.Digest {
	t.Helper()
	sealed := bytes.Repeat([]byte{byte(at)}, size)
	l := archive.Label{Host: host, Verdict: keystead.Sum(fmt.Append(nil, host, at)), Time: at, Size: uint64(size), Sealed: keystead.Sum(sealed), Wrapped: []byte("the record's key")}
	if err := a.put(&l, sealed); err != nil {
		t.Fatal(err)
	}
	return l.Verdict
}

// TestArchiveQuota fills an archive: the oldest of who uses the most make room, so that a
// host that is admitted over and over pushes out none but its own.
func TestArchiveQuota(t *testing.T) {
	a := openShelf(t, vfs.NewMem(), 1000)
	pushed := 0
	a.pushed = func(host string, _ keystead.Digest) {
		if pushed++; host != "busy" {
			t.Errorf("a record of %s had to go", host)
		}
	}
	quiet := deposit(t, a, "quiet", 1, 100)
	first := deposit(t, a, "busy", 2, 100)
	for at := range uint64(50) {
		deposit(t, a, "busy", 3+at, 100)
	}
	if records, size := a.usage(); size > 1000 || records < 8 || pushed < 40 {
		t.Errorf("%d records, %d bytes, %d pushed out", records, size, pushed)
	}
	if !a.has(quiet) || a.has(first) || !a.has(keystead.Sum([]byte("busy52"))) {
		t.Error("not the oldest of the busiest went")
	}
	if _, _, err := a.get(first); !errors.Is(err, keystead.ReasonArchiveMissing) {
		t.Errorf("what went: %v", err)
	}
	if names, _ := a.fs.List("archive"); len(names) != 2*len(a.kept) {
		t.Errorf("%d files of %d records", len(names), len(a.kept))
	}
	big := archive.Label{Host: "busy", Verdict: keystead.Sum([]byte("big"))}
	if err := a.put(&big, make([]byte, 1001)); !errors.Is(err, keystead.ReasonArchiveFull) || !a.has(quiet) {
		t.Errorf("what never fits: %v", err)
	}
}

// TestArchiveRetention destroys what is too old, the key first, and nothing else; also
// when a node was stopped in the middle of it.
func TestArchiveRetention(t *testing.T) {
	fs := vfs.NewMem()
	a := openShelf(t, fs, 1000)
	old, young := deposit(t, a, "web-1", 10, 20), deposit(t, a, "web-1", 20, 20)
	if n, err := a.sweep(10); n != 0 || err != nil {
		t.Errorf("%d destroyed before their time, %v", n, err)
	}
	if n, err := a.sweep(11); n != 1 || err != nil || a.has(old) || !a.has(young) {
		t.Errorf("%d destroyed, %v", n, err)
	}
	half := deposit(t, a, "web-2", 30, 20)
	if err := fs.Remove(a.path(half, labelSuffix)); err != nil { // as far as destroy came
		t.Fatal(err)
	}
	zeroed := deposit(t, a, "web-3", 40, 20)
	if err := a.writeFile(a.path(zeroed, labelSuffix), make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	a = openShelf(t, fs, 1000)
	if names, _ := fs.List("archive"); len(names) != 2 || !a.has(young) || a.total != 20 || a.hosts["web-1"] != 20 {
		t.Errorf("%v, %d bytes", names, a.total)
	}
	if _, sealed, err := a.get(young); err != nil || len(sealed) != 20 {
		t.Errorf("%d bytes, %v", len(sealed), err)
	}
}

// TestArchiveCrash cuts the power: what put acknowledged is there and whole, and nothing
// else counts.
func TestArchiveCrash(t *testing.T) {
	for seed := range uint64(50) {
		fs := vfs.NewCrashableMem()
		a := openShelf(t, fs, 1000)
		kept := deposit(t, a, "web-1", 1, 200)
		gone := deposit(t, a, "web-1", 2, 50)
		a.forget(gone)
		if err := a.destroy(gone); err != nil {
			t.Fatal(err)
		}
		half := keystead.Sum([]byte("half"))
		if err := a.writeFile(a.path(half, recordSuffix), []byte("half")); err != nil {
			t.Fatal(err)
		}
		after := openShelf(t, fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: int(seed * 2), RNG: rand.New(rand.NewPCG(seed, 0))}), 1000)
		l, sealed, err := after.get(kept)
		if err != nil || keystead.Sum(sealed) != l.Sealed {
			t.Errorf("seed %d: %v", seed, err)
		}
		if after.has(gone) || after.has(half) || after.total != 200 {
			t.Errorf("seed %d: %d bytes count", seed, after.total)
		}
	}
}

// TestArchiveAtOnce has many judges archive the same records at once.
func TestArchiveAtOnce(t *testing.T) {
	a := openShelf(t, vfs.NewMem(), 1<<20)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for at := range uint64(20) {
				if d := deposit(t, a, "web-1", at, 100); !a.has(d) {
					t.Error("archived, and not there")
				}
			}
		})
	}
	all.Wait()
	if records, size := a.usage(); records != 20 || size != 2000 {
		t.Errorf("%d records, %d bytes", records, size)
	}
}
