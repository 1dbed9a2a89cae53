package keyring_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/keyring"
	"github.com/keystead/keystead/receipt"
)

// board is a ledger in memory, of which this test plays all nodes.
type board struct {
	judged, records map[string]keyring.Value
	version         uint64
}

func (b *board) Judged(k string) (keyring.Value, error) { return b.judged[k], nil }
func (b *board) Record(k string) (keyring.Value, error) { return b.records[k], nil }

func (b *board) put(w keyring.Write) {
	b.version++
	b.records[w.Key] = keyring.Value{Version: b.version, Data: w.Data}
}

func (b *board) effect(writes []keyring.Write) {
	b.version++
	for _, w := range writes {
		b.judged[w.Key] = keyring.Value{Version: b.version, Data: w.Data}
	}
}

// source is randomness of a seed.
type source struct{ *rand.ChaCha8 }

func seeded(n uint64) source {
	var s [32]byte
	s[0], s[1], s[2] = byte(n), byte(n>>8), byte(n>>16)
	return source{rand.NewChaCha8(s)}
}

// node is one node: its ring lasts until it crashes, its disk goes on.
type node struct {
	name   string
	signer *key.Node
	ring   *keyring.Ring
	disk   []byte
	rounds map[string]*keyring.Round
	down   bool
}

// world is a domain of nodes over one board.
type world struct {
	t      testing.TB
	domain keystead.Digest
	member key.Member
	board  *board
	at     keyring.Standing
	nodes  map[string]*node
	random source
	// lie may change what a node is about to write; nil lets it be silent.
	lie func(n *node, step keyring.Step) *keyring.Write
	// crash may take a node down before it does a step.
	crash func(n *node, step keyring.Step) bool
	// log is what happened, for messages.
	log []string
}

func newWorld(t testing.TB, seed uint64, n int) *world {
	t.Helper()
	w := &world{t: t, domain: keystead.Sum([]byte("domain")), random: seeded(seed), nodes: map[string]*node{},
		board: &board{judged: map[string]keyring.Value{}, records: map[string]keyring.Value{}}}
	var err error
	if w.member, err = key.NewMember(w.random, "ada"); err != nil {
		t.Fatal(err)
	}
	w.at.Threshold, w.at.Members = 1, []key.MemberPublic{w.member.Public()}
	for i := range n {
		w.add(fmt.Sprintf("n%d", i+1))
	}
	return w
}

// add brings a node in.
func (w *world) add(name string) *node {
	w.t.Helper()
	signer, err := key.NewNode(w.random)
	if err != nil {
		w.t.Fatal(err)
	}
	n := &node{name: name, signer: signer}
	w.nodes[name] = n
	w.start(n)
	w.at.Nodes = append(slices.Clone(w.at.Nodes), receipt.Node{Name: name, Key: signer.Public()})
	slices.SortFunc(w.at.Nodes, func(a, b receipt.Node) int { return strings.Compare(a.Name, b.Name) })
	w.at.Sequence++
	return n
}

// remove takes a node out of the roster; it goes on by itself.
func (w *world) remove(name string) {
	w.at.Nodes = slices.DeleteFunc(slices.Clone(w.at.Nodes), func(n receipt.Node) bool { return n.Name == name })
	w.at.Sequence++
}

// start starts a node with what its disk has.
func (w *world) start(n *node) {
	w.t.Helper()
	ring, err := keyring.NewRing(w.domain, n.name, n.signer, w.random)
	if err != nil {
		w.t.Fatal(err)
	}
	if n.disk != nil {
		if err := ring.Restore(n.disk); err != nil {
			w.t.Fatal(err)
		}
	}
	n.ring, n.rounds, n.down = ring, map[string]*keyring.Round{}, false
}

// members returns the nodes of the roster that are up, by name.
func (w *world) members() (out []*node) {
	for _, n := range w.at.Nodes {
		if x := w.nodes[n.Name]; !x.down {
			out = append(out, x)
		}
	}
	return out
}

// settle has every node take up the secret of now and announce itself.
func (w *world) settle() {
	w.t.Helper()
	for _, n := range w.members() {
		if fresh, err := n.ring.Settle(w.board); err == nil && fresh {
			n.disk = n.ring.Held()
		}
		a, err := n.ring.Announce(w.board)
		if err != nil {
			w.t.Fatal(err)
		}
		if a != nil {
			w.board.put(*a)
		}
	}
}

func (w *world) keys() (names []string) {
	for k := range w.board.judged {
		if name, ok := strings.CutPrefix(k, keyring.KeyspecType+"/"); ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// open has the first node that is up open the rounds that are due.
func (w *world) open(skip ...string) []keyring.Opening {
	w.t.Helper()
	w.settle()
	leader := w.members()[0]
	due, err := leader.ring.Due(w.board, &w.at, keyring.Plan{Keys: w.keys(), Patient: len(skip) == 0,
		Skip: func(n string) bool { return slices.Contains(skip, n) }}, w.random)
	if err != nil {
		w.t.Fatal(err)
	}
	for i := range due {
		w.board.put(keyring.Write{Key: due[i].Round.OpenKey(), Data: due[i].Bytes()})
	}
	return due
}

// end is how a round ended.
type end struct {
	effective bool
	blame     map[string]error // by who failed it, per node that says so
	missing   []string         // for whom the others wait
}

// run plays a round until nothing moves any more, in an order that the seed draws.
func (w *world) run(o *keyring.Opening) end {
	w.t.Helper()
	out := end{blame: map[string]error{}}
	proposals := map[string]keyring.Outcome{}
	for moved := true; moved; {
		moved = false
		nodes := w.members()
		shuffle := rand.New(w.random)
		shuffle.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
		for _, n := range nodes {
			if w.turn(n, o, &out, proposals) {
				moved = true
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(proposals)) {
		if proposals[name].Content != nil && w.propose(proposals[name]) {
			out.effective = true
			break
		}
	}
	w.settle()
	return out
}

// turn lets a node do its next step in a round.
func (w *world) turn(n *node, o *keyring.Opening, out *end, proposals map[string]keyring.Outcome) bool {
	w.t.Helper()
	r := n.rounds[o.Round.String()]
	if r == nil {
		var err error
		if r, err = n.ring.Join(w.board, &w.at, o.Bytes(), w.random); err != nil {
			out.blame["join "+n.name] = err
			return false
		}
		n.rounds[o.Round.String()] = r
	}
	step, err := r.Next(w.board, &w.at)
	if err != nil {
		out.blame["error "+n.name] = err
		return false
	}
	if w.crash != nil && w.crash(n, step) {
		n.down = true
		return true
	}
	w.log = append(w.log, fmt.Sprintf("%s: %v", n.name, step.Do))
	switch step.Do {
	case keyring.Wait:
		out.missing = step.Missing
	case keyring.Failed:
		out.blame[step.Blame] = errors.Join(out.blame[step.Blame], step.Err)
	case keyring.Propose:
		proposals[n.name] = step.Outcome
	case keyring.Commit, keyring.Reveal:
		write := &step.Write
		if w.lie != nil {
			write = w.lie(n, step)
		}
		if write != nil {
			w.board.put(*write)
			return true
		}
	}
	return false
}

// propose has all nodes judge an outcome, and a majority of equal writes take effect.
func (w *world) propose(o keyring.Outcome) bool {
	w.t.Helper()
	votes := map[string]int{}
	var writes []keyring.Write
	for _, n := range w.members() {
		got, err := w.judge(n, o)
		if err != nil {
			w.log = append(w.log, fmt.Sprintf("%s refuses: %v", n.name, err))
			continue
		}
		votes[fmt.Sprintf("%x", got)]++
		writes = got
	}
	if len(votes) > 1 {
		w.t.Errorf("%v: nodes came to %d different results", o.Purpose, len(votes))
	}
	for _, n := range votes {
		if n >= w.at.Majority() {
			w.board.effect(writes)
			return true
		}
	}
	return false
}

func (w *world) judge(n *node, o keyring.Outcome) ([]keyring.Write, error) {
	if o.Purpose.IsEpoch() {
		return n.ring.JudgeEpoch(w.board, &w.at, keyring.CurrentEpoch, o.Content)
	}
	return n.ring.JudgeKey(w.board, &w.at, o.Purpose.Key, o.Content)
}

// agree plays the rounds that are due until none is.
func (w *world) agree(skip ...string) {
	w.t.Helper()
	for range 20 {
		due := w.open(skip...)
		if len(due) == 0 {
			return
		}
		for i := range due {
			if e := w.run(&due[i]); !e.effective {
				w.t.Fatalf("%v had no outcome: waits for %v, blames %v\n%s", due[i].Purpose, e.missing, e.blame, strings.Join(w.log, "\n"))
			}
		}
	}
	w.t.Fatal("rounds are due for ever")
}

// demand has members specify a key.
func (w *world) demand(name string, version uint64, change func(*keyring.Spec)) {
	w.t.Helper()
	writes, err := w.specify(name, version, change)
	if err != nil {
		w.t.Fatal(err)
	}
	w.board.effect(writes)
}

func (w *world) specify(name string, version uint64, change func(*keyring.Spec)) ([]keyring.Write, error) {
	base := w.board.judged[keyring.KeyspecType+"/"+name].Version
	s := keyring.Spec{Domain: w.domain, Name: name, Base: base, Version: version, Level: keyring.LevelNone,
		Policy: []byte("keystead-policy/1\nname any\nminimum-assurance test\nrules none\n")}
	if change != nil {
		change(&s)
	}
	text, err := s.Text()
	if err != nil {
		return nil, err
	}
	signed, err := w.member.Sign(text)
	if err != nil {
		return nil, err
	}
	return keyring.JudgeSpec(w.board, &w.at.Roster, w.domain, name, base, signed)
}

// read returns a version of a key as a node's ring opens it.
func (w *world) read(n *node, name string, version uint64) (string, error) {
	g, err := n.ring.Release(w.board, &keyring.Ask{Lease: lease{}, Claims: verdict("test"), Key: name, Version: version}, 1000)
	return string(g.Secret().Encode()), err
}

// same demands that these nodes, and no others, open a version to one secret.
func (w *world) same(name string, version uint64, who ...string) string {
	w.t.Helper()
	var secret string
	for _, n := range slices.Sorted(maps.Keys(w.nodes)) {
		got, err := w.read(w.nodes[n], name, version)
		switch {
		case !slices.Contains(who, n):
			if !errors.Is(err, keystead.ReasonSecretMissing) {
				w.t.Errorf("%s opens %s version %d, which it must not: %v", n, name, version, err)
			}
		case err != nil:
			w.t.Errorf("%s does not open %s version %d: %v", n, name, version, err)
		case len(got) != keyring.SecretSize || secret != "" && got != secret:
			w.t.Errorf("%s opens %s version %d to other bytes", n, name, version)
		default:
			secret = got
		}
	}
	return secret
}
