package keyring_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/keyring"
)

// TestRounds has domains of one to five nodes agree on an epoch and on keys: all nodes
// come to the same bytes, and each reads them.
func TestRounds(t *testing.T) {
	for _, n := range []int{1, 3, 5} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			w := newWorld(t, uint64(n), n)
			w.agree()
			w.demand("storage", 1, nil)
			w.demand("backup", 1, nil)
			w.agree()
			var all []string
			for name := range w.nodes {
				all = append(all, name)
			}
			a, b := w.same("storage", 1, all...), w.same("backup", 1, all...)
			w.demand("storage", 2, nil)
			w.agree()
			c := w.same("storage", 2, all...)
			if a == b || b == c || a == c || w.same("storage", 1, all...) != a {
				t.Error("two versions or keys are equal, or an old one changed")
			}
		})
	}
}

// TestSameSeedSameSecrets plays a world twice: secrets follow from contributions alone,
// though seals are random.
func TestSameSeedSameSecrets(t *testing.T) {
	play := func(seed uint64) string {
		w := newWorld(t, seed, 3)
		w.agree()
		w.demand("storage", 1, nil)
		w.agree()
		return w.same("storage", 1, "n1", "n2", "n3")
	}
	if a, b, c := play(7), play(7), play(8); a != b || a == c {
		t.Error("the same contributions give other secrets, or others the same")
	}
}

// TestEveryContributionCounts changes one node's contribution and nothing else.
func TestEveryContributionCounts(t *testing.T) {
	secret := func(different string) string {
		w := newWorld(t, 3, 3)
		w.agree()
		w.demand("storage", 1, nil)
		o := w.open()[0]
		for i, n := range w.members() {
			seed := uint64(100 + i)
			if n.name == different {
				seed = 200
			}
			r, err := n.ring.Join(w.board, &w.at, o.Bytes(), seeded(seed))
			if err != nil {
				t.Fatal(err)
			}
			n.rounds[o.Round.String()] = r
		}
		if e := w.run(&o); !e.effective {
			t.Fatal(e)
		}
		return w.same("storage", 1, "n1", "n2", "n3")
	}
	got := []string{secret(""), secret("n1"), secret("n2"), secret("n3")}
	slices.Sort(got)
	if len(slices.Compact(got)) != 4 {
		t.Error("a contribution does not change the secret")
	}
}

// liar says what a lying node n2 writes instead of what it should, and what is to be
// found of it.
type liar struct {
	name  string
	lie   func(w *world, n *node, step keyring.Step) *keyring.Write
	blame string
	want  keystead.Reason
}

func roundOf(key string) string {
	round, _, _ := strings.Cut(strings.TrimPrefix(key, keyring.RoundPrefix), "/")
	return round
}

func honest(step keyring.Step) *keyring.Write { return &step.Write }

var liars = []liar{
	{"reveals other bytes than it committed to", func(w *world, n *node, step keyring.Step) *keyring.Write {
		if step.Do == keyring.Reveal {
			return &keyring.Write{Key: step.Write.Key, Data: n.rounds[roundOf(step.Write.Key)].RevealOther(w.board)}
		}
		return honest(step)
	}, "n2", keystead.ReasonCommitBroken},
	{"seals to the wrong keys", func(w *world, n *node, step keyring.Step) *keyring.Write {
		if step.Do == keyring.Reveal {
			return &keyring.Write{Key: step.Write.Key, Data: keyring.ForgeReveal(w.domain, n.signer, step.Write.Data)}
		}
		return honest(step)
	}, "n2", keystead.ReasonSealUnopened},
	{"leaves seals out", func(w *world, n *node, step keyring.Step) *keyring.Write {
		if step.Do == keyring.Reveal {
			return &keyring.Write{Key: step.Write.Key, Data: keyring.CutReveal(w.domain, n.signer, step.Write.Data)}
		}
		return honest(step)
	}, "n2", keystead.ReasonSealUnopened},
	{"signs with a stranger's key", func(w *world, n *node, step keyring.Step) *keyring.Write {
		data := bytes.Clone(step.Write.Data)
		data[len(data)-1] ^= 1
		return &keyring.Write{Key: step.Write.Key, Data: data}
	}, "n2", keystead.ReasonSignatureInvalid},
	{"writes garbage", func(w *world, n *node, step keyring.Step) *keyring.Write {
		return &keyring.Write{Key: step.Write.Key, Data: []byte("garbage")}
	}, "n2", keystead.ReasonMalformed},
	{"commits again to other bytes before the reveals", func(w *world, n *node, step keyring.Step) *keyring.Write {
		if step.Do == keyring.Reveal {
			for _, other := range []string{"n1", "n3"} { // who have seen the first
				if r := w.nodes[other].rounds[roundOf(step.Write.Key)]; r != nil {
					if _, err := r.Next(w.board, &w.at); err != nil {
						w.t.Fatal(err)
					}
				}
			}
			key := keyring.RoundPrefix + roundOf(step.Write.Key) + "/commit/n2"
			return &keyring.Write{Key: key, Data: keyring.ForgeCommit(w.domain, n.signer, w.board.records[key].Data)}
		}
		return honest(step)
	}, "n2", keystead.ReasonCommitChanged},
}

// TestLiars has one of three nodes lie in each way, in rounds for an epoch and for a key:
// there is no outcome, the others name the liar and the reason, and the round
// is tried again without it.
func TestLiars(t *testing.T) {
	for _, l := range liars {
		for _, purpose := range []string{"epoch", "key"} {
			t.Run(l.name+", "+purpose, func(t *testing.T) {
				w := newWorld(t, 11, 3)
				if purpose == "key" {
					w.agree()
					w.demand("storage", 1, nil)
				}
				o := w.open()[0]
				w.lie = func(n *node, step keyring.Step) *keyring.Write {
					if n.name == "n2" {
						return l.lie(w, n, step)
					}
					return honest(step)
				}
				e := w.run(&o)
				if e.effective {
					t.Fatal("the round had an outcome all the same")
				}
				err := e.blame[l.blame]
				var format *keystead.FormatError
				if !errors.Is(err, l.want) && !(l.want == keystead.ReasonMalformed && errors.As(err, &format)) {
					t.Fatalf("want %s blamed for %s, got %v, waiting for %v", l.blame, l.want, e.blame, e.missing)
				}
				w.lie = nil
				w.agree("n2")
			})
		}
	}
}

// TestLastRevealerAborts has the node that sees all other reveals withhold its own, each
// time: the round fails, it is named, and the others agree without it.
func TestLastRevealerAborts(t *testing.T) {
	w := newWorld(t, 5, 3)
	w.agree()
	w.demand("storage", 1, nil)
	o := w.open()[0]
	w.lie = func(n *node, step keyring.Step) *keyring.Write {
		if n.name == "n3" && step.Do == keyring.Reveal {
			return nil
		}
		return honest(step)
	}
	if e := w.run(&o); e.effective || !slices.Equal(e.missing, []string{"n3"}) {
		t.Fatalf("want the round to wait for n3, got %+v", e)
	}
	w.lie = nil
	w.agree("n3")
	w.same("storage", 1, "n1", "n2", "n3") // n3 holds the epoch's secret, and reads
}

// TestMessagesOfOthers puts messages where they do not belong.
func TestMessagesOfOthers(t *testing.T) {
	start := func(t *testing.T) (w *world, a, b keyring.Opening) {
		w = newWorld(t, 9, 3)
		w.agree()
		w.demand("storage", 1, nil)
		w.demand("backup", 1, nil)
		due := w.open()
		return w, due[0], due[1]
	}
	for name, tc := range map[string]struct {
		spoil func(w *world, a, b keyring.Opening)
		blame string
		want  keystead.Reason
	}{
		"a commit of another round": {func(w *world, a, b keyring.Opening) {
			w.board.put(keyring.Write{Key: a.Round.CommitKey("n2"), Data: w.board.records[b.Round.CommitKey("n2")].Data})
		}, "n2", keystead.ReasonRoundForeign},
		"a commit of another node": {func(w *world, a, b keyring.Opening) {
			w.board.put(keyring.Write{Key: a.Round.CommitKey("n2"), Data: w.board.records[a.Round.CommitKey("n1")].Data})
		}, "n2", keystead.ReasonRoundForeign},
		"a reveal of another purpose": {func(w *world, a, b keyring.Opening) {
			w.board.put(keyring.Write{Key: a.Round.RevealKey("n2"), Data: w.board.records[b.Round.RevealKey("n2")].Data})
		}, "n2", keystead.ReasonRoundForeign},
		"a reveal of another node": {func(w *world, a, b keyring.Opening) {
			w.board.put(keyring.Write{Key: a.Round.RevealKey("n2"), Data: w.board.records[a.Round.RevealKey("n1")].Data})
		}, "n2", keystead.ReasonRoundForeign},
		"a commit written again after the reveals": {func(w *world, a, b keyring.Opening) {
			w.board.put(keyring.Write{Key: a.Round.CommitKey("n2"), Data: w.board.records[a.Round.CommitKey("n2")].Data})
		}, "n2", keystead.ReasonCommitLate},
		"a reveal without all commitments": {func(w *world, a, b keyring.Opening) {
			delete(w.board.records, a.Round.CommitKey("n3"))
		}, "n1", keystead.ReasonRevealEarly},
		"another opening in its place": {func(w *world, a, b keyring.Opening) {
			w.board.put(keyring.Write{Key: a.Round.OpenKey(), Data: b.Bytes()})
		}, "n1", keystead.ReasonRoundForeign},
	} {
		t.Run(name, func(t *testing.T) {
			w, a, b := start(t)
			silent := func(n *node, step keyring.Step) *keyring.Write {
				if n.name == "n3" && step.Do == keyring.Reveal {
					return nil // so that both rounds stand open, with all that the others reveal
				}
				return honest(step)
			}
			w.lie = silent
			w.run(&a)
			w.run(&b)
			w.lie = nil
			tc.spoil(w, a, b)
			e := w.run(&a)
			if e.effective || !errors.Is(e.blame[tc.blame], tc.want) {
				t.Errorf("want %s blamed for %s, got %+v", tc.blame, tc.want, e)
			}
		})
	}
}

// TestOpeningsRefused opens rounds that nobody may join.
func TestOpeningsRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(w *world, o *keyring.Opening)
		want   keystead.Reason // "" for bytes that do not parse
		key    bool
	}{
		"a node that is not in the roster": {func(w *world, o *keyring.Opening) { w.remove("n3"); o.Roster = w.at.Sequence }, keystead.ReasonNotMember, false},
		"a node twice":                     {func(w *world, o *keyring.Opening) { o.Nodes[1] = o.Nodes[0] }, "", false},
		"nodes out of order":               {func(w *world, o *keyring.Opening) { o.Nodes[0], o.Nodes[1] = o.Nodes[1], o.Nodes[0] }, "", false},
		"no nodes":                         {func(w *world, o *keyring.Opening) { o.Nodes = nil }, "", false},
		"a minority of nodes":              {func(w *world, o *keyring.Opening) { o.Nodes = o.Nodes[:1] }, keystead.ReasonMajorityMissing, false},
		"an old roster":                    {func(w *world, o *keyring.Opening) { o.Roster-- }, keystead.ReasonRoundUnfit, false},
		"an epoch too far":                 {func(w *world, o *keyring.Opening) { o.Purpose.Number++ }, keystead.ReasonRoundUnfit, false},
		"another epoch in use":             {func(w *world, o *keyring.Opening) { o.Epoch++ }, keystead.ReasonRoundUnfit, false},
		"a wrapping key that n2 did not sign": {func(w *world, o *keyring.Opening) { o.Nodes[1].Wrapping = o.Nodes[0].Wrapping },
			keystead.ReasonSignatureInvalid, false},
		"a key that nobody wants":            {func(w *world, o *keyring.Opening) { o.Purpose = keyring.KeyPurpose("other", 1) }, keystead.ReasonRoundUnfit, true},
		"a version that nobody wants":        {func(w *world, o *keyring.Opening) { o.Purpose.Number++ }, keystead.ReasonRoundUnfit, true},
		"a key among nodes without an epoch": {func(w *world, o *keyring.Opening) { w.board.judged["epoch/current"] = keyring.Value{}; o.Epoch = 0 }, keystead.ReasonRoundUnfit, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 21, 3)
			if tc.key {
				w.agree()
				w.demand("storage", 1, nil)
			}
			o := w.open()[0]
			tc.change(w, &o)
			o.Sign(w.nodes["n1"].signer, w.domain)
			_, err := w.nodes["n2"].ring.Join(w.board, &w.at, o.Bytes(), w.random)
			var format *keystead.FormatError
			if !errors.Is(err, tc.want) && !(tc.want == "" && errors.As(err, &format)) {
				t.Errorf("want %q, got %v", tc.want, err)
			}
		})
	}
	w := newWorld(t, 22, 3)
	o := w.open()[0]
	stranger := newWorld(t, 23, 1).nodes["n1"].signer
	o.Sign(stranger, w.domain)
	if _, err := w.nodes["n2"].ring.Join(w.board, &w.at, o.Bytes(), w.random); !errors.Is(err, keystead.ReasonSignatureInvalid) {
		t.Errorf("a stranger opened a round: %v", err)
	}
	o.Proposer = "x"
	o.Sign(stranger, w.domain)
	if _, err := w.nodes["n2"].ring.Join(w.board, &w.at, o.Bytes(), w.random); !errors.Is(err, keystead.ReasonSignerUnknown) {
		t.Errorf("a node of no roster opened a round: %v", err)
	}
	o = w.open()[0]
	w.start(w.nodes["n2"])
	if _, err := w.nodes["n2"].ring.Join(w.board, &w.at, o.Bytes(), w.random); !errors.Is(err, keystead.ReasonRoundForeign) {
		t.Errorf("n2 joined a round for the wrapping key of its last start: %v", err)
	}
	o = keyring.Opening{}
	if _, err := w.nodes["n2"].ring.Join(w.board, &w.at, o.Bytes(), w.random); err == nil {
		t.Error("the empty opening was joined")
	}
}

// TestCrashAtEveryStep takes each node down before each of its steps, starts it again
// with its disk, and goes on: the domain agrees in the end, and all read the same.
func TestCrashAtEveryStep(t *testing.T) {
	for _, do := range []keyring.Action{keyring.Commit, keyring.Wait, keyring.Reveal, keyring.Propose} {
		for _, victim := range []string{"n1", "n3"} {
			for _, purpose := range []string{"epoch", "key"} {
				t.Run(fmt.Sprintf("%v, %s, %s", do, victim, purpose), func(t *testing.T) {
					w := newWorld(t, 31, 3)
					if purpose == "key" {
						w.agree()
					}
					w.demand("storage", 1, nil)
					o := w.open()[0]
					crashed := false
					w.crash = func(n *node, step keyring.Step) bool {
						hit := !crashed && n.name == victim && step.Do == do
						crashed = crashed || hit
						return hit
					}
					w.run(&o)
					w.crash = nil
					if n := w.nodes[victim]; n.down {
						w.start(n)
						e := w.run(&o)
						if err := e.blame[victim]; err != nil && !errors.Is(err, keystead.ReasonContributionLost) {
							t.Errorf("want %s blamed for %s at most, got %v", victim, keystead.ReasonContributionLost, err)
						}
					}
					w.agree()
					w.same("storage", 1, "n1", "n2", "n3")
				})
			}
		}
	}
}

// TestEpochChange evicts a node and lets another join: what the evicted holds opens no
// new version, every key that it could read has one, and the joiner reads all.
func TestEpochChange(t *testing.T) {
	w := newWorld(t, 41, 3)
	w.agree()
	w.demand("storage", 1, nil)
	w.demand("backup", 1, nil)
	w.agree()
	before := w.same("storage", 1, "n1", "n2", "n3")
	w.remove("n3")
	w.add("n4")
	w.agree()
	if now, err := keyring.Current(w.board); err != nil || now.Number != 2 || now.Tainted != 1 || !slices.Equal(now.Nodes(), []string{"n1", "n2", "n4"}) {
		t.Fatalf("epoch %+v, %v", now, err)
	}
	for _, name := range []string{"storage", "backup"} {
		if v, err := keyring.Newest(w.board, name); err != nil || v.Number != 2 || v.Epoch != 2 {
			t.Errorf("%s was not rotated: %+v, %v", name, v, err)
		}
		w.same(name, 2, "n1", "n2", "n4")
	}
	if w.same("storage", 1, "n1", "n2", "n3", "n4") != before {
		t.Error("the joiner reads other bytes")
	}
	// and so on over several epochs
	for _, name := range []string{"n5", "n6"} {
		w.add(name)
		w.agree()
	}
	if w.same("storage", 1, "n1", "n2", "n3", "n4", "n5", "n6") != before {
		t.Error("who joined four epochs later reads other bytes")
	}
	if v, _ := keyring.Newest(w.board, "storage"); v.Number != 2 {
		t.Errorf("nobody left, but storage was rotated: %+v", v)
	}
}

// TestSilentThenEvicted evicts a node that was silent in the epoch of now, but had
// held the one before: its keys are rotated all the same.
func TestSilentThenEvicted(t *testing.T) {
	w := newWorld(t, 43, 4)
	w.agree()
	w.demand("storage", 1, nil)
	w.agree()
	w.nodes["n4"].down = true
	w.add("n5")
	w.agree("n4")
	if now, _ := keyring.Current(w.board); len(now.Holders) != 5 || len(now.Nodes()) != 4 || now.Tainted != 0 {
		t.Fatalf("epoch %+v", now)
	}
	w.remove("n4")
	w.agree()
	if v, _ := keyring.Newest(w.board, "storage"); v.Number != 2 || v.Epoch != 3 {
		t.Errorf("storage was not rotated: %+v", v)
	}
	w.same("storage", 2, "n1", "n2", "n3", "n5")
}

// TestAnotherMachineUnderTheName replaces a node by another machine of the same name in
// one change of the roster: what the first could read is rotated. A new signing key of
// the same machine rotates nothing.
func TestAnotherMachineUnderTheName(t *testing.T) {
	w := newWorld(t, 45, 3)
	for i := range w.at.Nodes {
		w.at.Nodes[i].AK[0] = byte(i + 1)
	}
	w.agree()
	w.demand("storage", 1, nil)
	w.agree()
	ak := w.at.Nodes[2].AK
	w.nodes["n3"].disk = nil
	w.remove("n3")
	w.add("n3")
	w.at.Nodes[2].AK = ak
	w.agree()
	if v, _ := keyring.Newest(w.board, "storage"); v.Number != 1 {
		t.Errorf("the same machine, and storage was rotated: %+v", v)
	}
	w.remove("n3")
	w.add("n3")
	w.at.Nodes[2].AK[0] = 9
	w.agree()
	if v, _ := keyring.Newest(w.board, "storage"); v.Number != 2 || v.Epoch != 3 {
		t.Errorf("another machine, and storage was not rotated: %+v", v)
	}
	w.same("storage", 2, "n1", "n2", "n3")
}

// TestLostSecret has a node lose what its TPM kept: it says so, the next epoch includes
// it, and nothing is rotated.
func TestLostSecret(t *testing.T) {
	w := newWorld(t, 47, 3)
	w.agree()
	w.demand("storage", 1, nil)
	w.agree()
	w.nodes["n2"].disk = nil
	w.start(w.nodes["n2"])
	w.same("storage", 1, "n1", "n3")
	w.agree()
	w.same("storage", 1, "n1", "n2", "n3")
	if now, _ := keyring.Current(w.board); now.Number != 2 || now.Tainted != 0 {
		t.Errorf("epoch %+v", now)
	}
	if v, _ := keyring.Newest(w.board, "storage"); v.Number != 1 {
		t.Errorf("nobody left, but storage was rotated: %+v", v)
	}
}

// TestProposalsRefused proposes results that nobody computed.
func TestProposalsRefused(t *testing.T) {
	w := newWorld(t, 51, 3)
	w.agree()
	w.demand("storage", 1, nil)
	o := w.open()[0]
	w.run(&o)
	epoch, _ := keyring.Current(w.board)
	version, _ := keyring.Newest(w.board, "storage")
	judge := w.nodes["n2"].ring
	delete(w.board.judged, "key/storage") // as when the round had just ended
	delete(w.board.judged, "key/storage/1")
	if _, err := judge.JudgeKey(w.board, &w.at, "storage", version.Bytes()); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		change  func(v *keyring.Version)
		subject string
		want    keystead.Reason
	}{
		"another confirmation": {func(v *keyring.Version) { v.Confirm[0] ^= 1 }, "storage", keystead.ReasonAgreementMismatch},
		"another wrapping":     {func(v *keyring.Version) { v.Wrapped = append(bytes.Clone(v.Wrapped[:47]), v.Wrapped[47]^1) }, "storage", keystead.ReasonAgreementMismatch},
		"another epoch":        {func(v *keyring.Version) { v.Epoch++ }, "storage", keystead.ReasonAgreementMismatch},
		"another version":      {func(v *keyring.Version) { v.Number++ }, "storage", keystead.ReasonAgreementMismatch},
		"another subject":      {func(v *keyring.Version) {}, "backup", keystead.ReasonAgreementMismatch},
		"another round":        {func(v *keyring.Version) { v.Round[0] ^= 1 }, "storage", keystead.ReasonAgreementMismatch},
		"the epoch's round":    {func(v *keyring.Version) { v.Round = epoch.Round }, "storage", keystead.ReasonAgreementMismatch},
	} {
		v := version
		tc.change(&v)
		if got, err := judge.JudgeKey(w.board, &w.at, tc.subject, v.Bytes()); !errors.Is(err, tc.want) || got != nil {
			t.Errorf("%s: want %s, got %v", name, tc.want, err)
		}
	}
	if _, err := judge.JudgeEpoch(w.board, &w.at, keyring.CurrentEpoch, epoch.Bytes()); !errors.Is(err, keystead.ReasonRoundUnfit) {
		t.Errorf("an epoch that took effect was endorsed again: %v", err)
	}
	if _, err := judge.JudgeEpoch(w.board, &w.at, "other", epoch.Bytes()); !errors.Is(err, keystead.ReasonAgreementMismatch) {
		t.Errorf("an epoch on another subject: %v", err)
	}
	// a joiner endorses only what unwraps to the confirmed older secret
	w.add("n4")
	o = w.open()[0]
	w.lie = func(n *node, step keyring.Step) *keyring.Write { return honest(step) }
	var content []byte
	for content == nil {
		for _, n := range w.members() {
			proposals := map[string]keyring.Outcome{}
			w.turn(n, &o, &end{blame: map[string]error{}}, proposals)
			if c := proposals[n.name].Content; c != nil {
				content = c
			}
		}
	}
	e, err := keyring.ParseEpoch(content)
	if err != nil {
		t.Fatal(err)
	}
	joiner := w.nodes["n4"].ring
	if _, err := joiner.JudgeEpoch(w.board, &w.at, keyring.CurrentEpoch, content); err != nil {
		t.Errorf("the joiner does not endorse: %v", err)
	}
	e.Older = append(bytes.Clone(e.Older[:47]), e.Older[47]^1)
	for _, n := range []string{"n1", "n4"} {
		if _, err := w.nodes[n].ring.JudgeEpoch(w.board, &w.at, keyring.CurrentEpoch, e.Bytes()); !errors.Is(err, keystead.ReasonSealUnopened) {
			t.Errorf("%s: an older secret that does not open: %v", n, err)
		}
	}
	e.Older = nil
	if _, err := joiner.JudgeEpoch(w.board, &w.at, keyring.CurrentEpoch, e.Bytes()); err == nil {
		t.Error("the joiner endorses an epoch that drops the older secrets")
	}
}
