package node

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/key"
)

func because(r keystead.Reason) error { return keystead.Deny(keystead.Finding{Reason: r}) }

// TestSpoilersAreLeftOut has a node spoil each round that it is in: by words of its own
// that contradict each other, and by silence. Each time it is left out for longer.
func TestSpoilersAreLeftOut(t *testing.T) {
	nodes := []string{"n1", "n2", "n3"}
	for _, x := range []struct {
		why  error
		most time.Duration
	}{
		{because(keystead.ReasonCommitBroken), spareProven},
		{because(keystead.ReasonCommitChanged), spareProven},
		{because(keystead.ReasonSealUnopened), spareProven},
		{because(keystead.ReasonRoundSilent), spareMost},
		{because(keystead.ReasonRevealEarly), spareMost},
		{because(keystead.ReasonCommitLate), spareMost},
	} {
		var f faults
		now := time.Now()
		spoilt := 0
		for end := now.Add(3 * time.Hour); now.Before(end); now = now.Add(10 * time.Second) {
			if f.skipped(nodes, 2, now)["n3"] {
				continue
			}
			spoilt++
			want := min(spareFor<<(spoilt-1), x.most)
			if got := f.blame("n3", x.why, now); got != want {
				t.Errorf("%v, time %d: left out for %v, want %v", x.why, spoilt, got, want)
			}
			if out := f.skipped(nodes, 2, now.Add(want-time.Second)); !out["n3"] || len(out) != 1 {
				t.Errorf("%v: the next round is without %v", x.why, slices.Collect(maps.Keys(out)))
			}
		}
		if most := int(3*time.Hour/x.most) + 7; spoilt > most {
			t.Errorf("%v: %d rounds were spoilt in three hours, more than %d", x.why, spoilt, most)
		}
	}
}

// TestFramedNodesAreCountedOn has one node make the two others look silent: those that
// are left are never fewer than a majority, and the one that its own words convict goes
// first.
func TestFramedNodesAreCountedOn(t *testing.T) {
	var f faults
	now := time.Now()
	f.blame("n1", because(keystead.ReasonRoundSilent), now)
	f.blame("n2", because(keystead.ReasonRoundSilent), now)
	for range 3 {
		f.blame("n3", because(keystead.ReasonCommitBroken), now)
	}
	if out := f.skipped([]string{"n1", "n2", "n3"}, 2, now); len(out) != 1 || !out["n3"] {
		t.Errorf("left out: %v", out)
	}
	if out := f.skipped([]string{"n1", "n2"}, 2, now); len(out) != 0 {
		t.Errorf("left out of too few: %v", out)
	}
}

// TestLostContributionsAreForgivenTwice: a node that starts within rounds is unlucky, until
// it is so again and again.
func TestLostContributionsAreForgivenTwice(t *testing.T) {
	var f faults
	now := time.Now()
	for i := range 4 {
		if got := f.blame("n3", because(keystead.ReasonContributionLost), now.Add(time.Duration(i)*time.Minute)); (got > 0) != (i >= lossesFree) {
			t.Errorf("time %d: left out for %v", i+1, got)
		}
	}
}

// TestLackingAgainAndAgain has a node say in every epoch that it lacks the secret, for
// which the others make another.
func TestLackingAgainAndAgain(t *testing.T) {
	var f faults
	now := time.Now()
	nodes := []string{"n1", "n2", "n3"}
	epochs := uint64(1)
	for i := range 3600 { // an hour of seconds
		at := now.Add(time.Duration(i) * time.Second)
		f.lacks("n3", epochs, at)
		f.lacks("n3", epochs, at) // said once
		if !f.skipped(nodes, 2, at)["n3"] {
			epochs++
		}
	}
	if most := uint64((lacksFree + 1) * 7); epochs > most {
		t.Errorf("%d epochs in an hour, more than %d", epochs, most)
	}
}

// TestRekeysAreCounted has a node bring in new keys as fast as it can: one that lost its
// place and asks for the same key is not held up.
func TestRekeysAreCounted(t *testing.T) {
	keys := make([]key.NodePublic, 3)
	for i := range keys {
		k, err := key.NewNode(constant(i + 1))
		if err != nil {
			t.Fatal(err)
		}
		keys[i] = k.Public()
	}
	var r rekeys
	now := time.Now()
	signed := 0 // a key that was not the last one
	for i := range 3600 {
		at := now.Add(time.Duration(i) * time.Second)
		if r.wait("n3", keys[signed%2], at) == 0 {
			signed++
		}
		if r.wait("n2", keys[2], at) != 0 {
			t.Fatal("the same key is held up")
		}
	}
	if most := newKeys + int(time.Hour/newKeyEvery); signed > most || signed < most-2 {
		t.Errorf("%d keys in an hour, want %d", signed, most)
	}
	if wait := r.wait("n1", keys[0], now); wait != 0 {
		t.Errorf("another node waits %v", wait)
	}
}
