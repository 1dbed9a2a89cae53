package replica_test

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/replica"
)

// states returns the directories of the machine's states: a snapshot that is taken in has
// a new one.
func (m *machine) states() string {
	m.t.Helper()
	names, err := filepath.Glob(m.dir + "/data/state-*")
	if err != nil {
		m.t.Fatal(err)
	}
	return strings.Join(names, " ")
}

// lagging is a group of three with little log in memory, of which one is closed while the
// others write much more than that.
func lagging(t *testing.T, with func(*replica.StoreOptions)) (ms []*machine, late *machine, start func(*machine) error) {
	t.Helper()
	var founders []replica.Member
	for range 3 {
		m := newMachine(t, true)
		ms, founders = append(ms, m), append(founders, m.member())
	}
	start = func(m *machine) error {
		o := m.options(founders, nil)
		o.Store.RetainBytes = 16 << 10
		with(&o.Store)
		n, err := replica.Start(t.Context(), o)
		m.run(n)
		return err
	}
	for _, m := range ms {
		if err := start(m); err != nil {
			t.Fatal(err)
		}
	}
	late = without(ms, leaderOf(t, ms))[0]
	eventually(t, func() error { return expect(late, "none", "") })
	if err := late.node.Close(); err != nil {
		t.Fatal(err)
	}
	late.listen(late.address)
	value := make([]byte, 4<<10)
	for i := range 100 {
		_, _ = rand.Read(value) // never fails
		if err := settled(func() error {
			return put(leaderOf(t, without(ms, late)), uint64(i+1), fmt.Sprint(i), hex.EncodeToString(value))
		}); err != nil {
			t.Fatal(err)
		}
	}
	return ms, late, start
}

// TestLagOfLog: who lags by much more than what is in memory is sent the log, from disk;
// only where that is not kept, a snapshot.
func TestLagOfLog(t *testing.T) {
	for name, cut := range map[string]bool{"kept": false, "cut with memory": true} {
		t.Run(name, func(t *testing.T) {
			ms, late, start := lagging(t, func(o *replica.StoreOptions) { o.CutWithMemory = cut })
			before := late.states()
			if err := start(late); err != nil {
				t.Fatal(err)
			}
			eventually(t, func() error {
				if want, got := leaderOf(t, ms).node.Status().Applied, late.node.Status().Applied; got < want {
					return fmt.Errorf("applied %d of %d", got, want)
				}
				return nil
			})
			for _, key := range []string{"0", "50", "99"} {
				want, err := get(leaderOf(t, ms), key)
				if err := errors.Join(err, expect(late, key, want)); err != nil || len(want) != 8<<10 {
					t.Errorf("%s: %v", key, err)
				}
			}
			if snapshot := late.states() != before; snapshot != cut {
				t.Errorf("a snapshot was taken in: %v; the states are %s and were %s", snapshot, late.states(), before)
			}
		})
	}
}

// TestLagOfDamagedLog: a leader that cannot read the entries which another lacks stops,
// says why, and sends nothing else in their place.
func TestLagOfDamagedLog(t *testing.T) {
	ms, late, start := lagging(t, func(*replica.StoreOptions) {})
	leader := leaderOf(t, without(ms, late))
	files, err := filepath.Glob(leader.dir + "/data/log/*.log")
	if err != nil || len(files) < 10 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, file := range files[1:5] {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)/2] ^= 1
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := start(late); err != nil {
		t.Fatal(err)
	}
	<-leader.node.Done()
	if err := leader.node.Err(); !errors.Is(err, keystead.ReasonStoreCorrupt) || !strings.Contains(err.Error(), ".log") {
		t.Errorf("want store-corrupt and the file, got %v", err)
	}
	leader.node = nil
	eventually(t, func() error { // from the other, which is whole
		want, err := get(without(without(ms, leader), late)[0], "99")
		return errors.Join(err, expect(late, "99", want))
	})
}
