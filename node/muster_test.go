package node_test

import (
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/evidence/tpm2"
	"github.com/keystead/keystead/internal/practice"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/node"
	"github.com/keystead/keystead/policy"
	"github.com/keystead/keystead/receipt"
)

// ask has the member sign a statement upon the subject's version of now, and the nodes judge it.
func (b *bed) ask(kind, subject string, text func(base uint64) ([]byte, error)) error {
	b.t.Helper()
	return b.askAt("", kind, subject, text)
}

// askAt is ask at one node: which one it is decides whose refusal is the answer.
func (b *bed) askAt(node, kind, subject string, text func(base uint64) ([]byte, error)) error {
	b.t.Helper()
	cl := b.client(node)
	s, err := cl.State(b.ctx, nil, []string{kind + "/" + subject})
	if err != nil {
		b.t.Fatal(err)
	}
	base := s.GetVersions()[0]
	unsigned, err := text(base)
	if err != nil {
		b.t.Fatal(err)
	}
	note, err := b.member.Sign(unsigned)
	if err != nil {
		b.t.Fatal(err)
	}
	p := ledger.Proposal{ID: [16]byte(client.NewRequestID()), Type: kind, Subject: subject, Base: base, Content: note}
	entry, err := p.Entry()
	if err != nil {
		b.t.Fatal(err)
	}
	_, err = cl.Submit(b.ctx, entry, nil)
	return err
}

// askTerms asks for terms for nodes: the founding ones, changed.
func (b *bed) askTerms(change func(*admit.Terms)) error {
	b.t.Helper()
	terms, err := admit.ParseTerms(b.objects[len(b.objects)-1])
	if err != nil {
		b.t.Fatal(err)
	}
	change(&terms)
	return b.ask(admit.TypeTerms, admit.RoleNode, func(base uint64) ([]byte, error) {
		terms.Domain, terms.Base = b.digest, base
		return terms.Text()
	})
}

// lenientAs is a policy that reports what runs, and allows it. Who knocks goes by it, too.
func (b *bed) lenientAs(name string) keystead.Digest {
	b.t.Helper()
	text := strings.NewReplacer("name demo", "name "+name, "software every-entry", "software report").Replace(string(b.objects[1]))
	var err error
	if b.input.Policy, err = policy.Compile([]byte(text), appraise.Vocabulary()); err != nil {
		b.t.Fatal(err)
	}
	return b.policyText(text)
}

func (b *bed) policyText(text string) keystead.Digest {
	b.t.Helper()
	digest, err := b.client("").PutObject(b.ctx, []byte(text))
	if err != nil {
		b.t.Fatal(err)
	}
	if err := b.ask(admit.TypeObject, digest.String(), func(base uint64) ([]byte, error) {
		return (&admit.Object{Domain: b.digest, Digest: digest, Base: base, Kind: admit.ObjectPolicy}).Text()
	}); err != nil {
		b.t.Fatal(err)
	}
	return digest
}

// impossible is a policy that no machine of these tests passes.
func (b *bed) impossible() keystead.Digest {
	return b.policyText(strings.Replace(string(b.objects[1]), "name demo", "name impossible", 1) + "rule other-firmware\n  require quote.firmware == \"none\"\n  otherwise have other firmware\n")
}

// goesOn wants the domain to take a write, and nodes to sign.
func (b *bed) goesOn(nodes ...int) {
	b.t.Helper()
	if _, err := b.client("").Put(b.ctx, "kv/on", []byte("1")); err != nil {
		b.t.Fatal(err)
	}
	b.signing(nodes...)
}

// names wants a refusal with terms-exclude to say all of these words.
func names(t *testing.T, what string, err error, words ...string) {
	t.Helper()
	demand(t, what, err, keystead.ReasonTermsExclude)
	all := findings(err)
	for _, w := range words {
		if !strings.Contains(all, w) {
			t.Errorf("%s: the refusal does not say %q: %s", what, w, all)
		}
	}
}

// findings are all lines of a refusal.
func findings(err error) string {
	var deny *keystead.DenyError
	if !errors.As(err, &deny) {
		return ""
	}
	var lines []string
	for _, f := range deny.Findings {
		lines = append(lines, f.String())
	}
	return strings.Join(lines, "\n")
}

// identity is a machine's hardware identity.
func (b *bed) identity(m *practice.Machine) keystead.Digest {
	b.t.Helper()
	keys, err := prover(m).Introduce(b.ctx)
	if err != nil {
		b.t.Fatal(err)
	}
	ek, err := tpm2.ParsePublic(keys.EKPublic)
	if err != nil {
		b.t.Fatal(err)
	}
	return ek.Fingerprint()
}

// TestTermsThatExclude asks for terms that the nodes themselves fail: all of them, one, and one
// from a time on. What would leave no majority is not endorsed whatever the members say, and one
// node falls out only where they say so. The statement alone says it: what is written is terms that
// builds from before can read.
func TestTermsThatExclude(t *testing.T) {
	t.Parallel()
	b := newBed(t, 3)
	impossible := b.impossible()
	err := b.askTerms(func(t *admit.Terms) { t.Policy = impossible })
	names(t, "a policy that all fail", err, "node n1", "node n2", "node n3", "rule-failed", "other-firmware", "2 of 3 nodes that run")
	for _, n := range []uint64{2, 3} {
		err = b.askTerms(func(t *admit.Terms) { t.Policy, t.MayExclude = impossible, n })
		names(t, "may exclude a majority", err, "may-exclude of at most 1")
	}
	err = b.askTerms(func(t *admit.Terms) { t.Policy, t.MayExclude = impossible, 1 })
	names(t, "a policy that all fail, of whom one may", err, "2 of 3 nodes that run")
	ends := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	err = b.askTerms(func(t *admit.Terms) { t.Until = map[keystead.Digest]time.Time{t.CodeSets[0]: ends} })
	names(t, "a set that all need, up to a time", err, "node n1", "grace-ended", "from "+ends.Format(time.RFC3339))
	b.goesOn(0, 1, 2)

	lenient := b.lenientAs("lenient")
	if err := b.askTerms(func(t *admit.Terms) { t.Policy = lenient }); err != nil {
		t.Fatal(err)
	}
	if _, err := b.machines[2].Advance(b.ctx); err != nil { // which lenient terms allow
		t.Fatal(err)
	}
	b.shownAnew(2)
	err = b.askTerms(func(*admit.Terms) {})
	names(t, "terms that one fails", err, "node n3", "/usr/bin/whoami", "may-exclude 1, if that is meant")
	if strings.Contains(findings(err), "node n1") {
		t.Errorf("the refusal names a node that passes: %v", err)
	}
	if err := b.askTerms(func(t *admit.Terms) { t.MayExclude = 1 }); err != nil {
		t.Fatalf("terms that one fails, and may: %v", err)
	}
	s, err := b.client("").State(b.ctx, []string{admit.TypeTerms + "/" + admit.RoleNode}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if text := string(s.GetValues()[0].GetValue()); strings.Contains(text, "may-exclude") || !strings.HasPrefix(text, "keystead-terms/1\n") {
		t.Errorf("what is written is %q", text)
	}
	_, proven, err := b.client("").Receipt(b.ctx, s.GetValues()[0].GetVersion()-1)
	if err != nil {
		t.Fatal(err)
	}
	if e, err := ledger.ParseEffective(proven.Entry); err != nil || !strings.Contains(string(e.Verdict.Content), "\nmay-exclude 1\n") {
		t.Errorf("the receipt does not say what members allowed: %v, %q", err, e.Verdict.Content)
	}
	b.until(2, "nobody speaks to it", func(s *apiv1.StatusResponse) bool { return s.GetLeader() == "" })
	if _, err := b.client("n1").Put(b.ctx, "kv/without", []byte("n3")); err != nil {
		t.Error(err)
	}
	second := b.identity(b.machines[1])
	err = b.ask(admit.TypeDenial, admit.DenyEK(second), func(base uint64) ([]byte, error) {
		return (&admit.Denial{Domain: b.digest, Subject: admit.DenyEK(second), Base: base, Because: "test", MayExclude: 1}).Text()
	})
	names(t, "a second one, by a denial", err, "node n2", "hardware-denied", "2 of 3 nodes that run")
}

// shownAnew has a node's machine show evidence of now to the other nodes, by the node's key.
func (b *bed) shownAnew(of int) {
	b.t.Helper()
	for i, p := range b.nodes {
		if i == of {
			continue
		}
		if err := b.knock(p.place.API, b.nodes[of].dir, b.machines[of]); err != nil {
			b.t.Fatal(err)
		}
	}
}

// TestDenialsOfNodes denies hardware that nodes run on, and enrols and revokes a node's machine as
// a host.
func TestDenialsOfNodes(t *testing.T) {
	t.Parallel()
	b := newBed(t, 3)
	deny := func(subject string, lifted bool, may uint64) error {
		return b.ask(admit.TypeDenial, subject, func(base uint64) ([]byte, error) {
			return (&admit.Denial{Domain: b.digest, Subject: subject, Base: base, Because: "test", Lifted: lifted, MayExclude: may}).Text()
		})
	}
	issuer := keystead.Sum(b.stage.Root().RawSubjectPublicKeyInfo)
	names(t, "the issuer of all nodes' TPMs", deny(admit.DenyIssuer(issuer), false, 1), "node n1", "node n2", "node n3", "issuer/")
	third := admit.DenyEK(b.identity(b.machines[2]))
	names(t, "one node's TPM", deny(third, false, 0), "node n3", "may-exclude 1, if that is meant")
	if err := deny(third, false, 1); err != nil {
		t.Fatal(err)
	}
	b.until(2, "nobody speaks to it", func(s *apiv1.StatusResponse) bool { return s.GetLeader() == "" })
	for _, door := range []string{b.nodes[0].place.Peer, b.nodes[0].place.API} {
		demand(t, "the denied node at "+door, b.knock(door, b.nodes[2].dir, b.machines[2]), keystead.ReasonHardwareDenied)
	}
	if _, err := b.client("n1").Put(b.ctx, "kv/without", []byte("n3")); err != nil {
		t.Error(err)
	}
	if err := deny(third, true, 0); err != nil {
		t.Fatal(err)
	}
	b.goesOn(0, 1, 2)

	twin := b.identity(b.machines[1])
	enrol := func(revoked bool) {
		t.Helper()
		if err := b.ask(admit.TypeEnrolment, "twin", func(base uint64) ([]byte, error) {
			return (&admit.Enrolment{Domain: b.digest, Host: "twin", Base: base, Role: admit.RoleHost, EK: twin, Revoked: revoked}).Text()
		}); err != nil {
			t.Fatal(err)
		}
		if err := b.knock(b.nodes[0].place.API, b.nodes[1].dir, b.machines[1]); err != nil {
			t.Errorf("a node whose machine is a host, revoked %v: %v", revoked, err)
		}
	}
	enrol(false)
	enrol(true)
	b.goesOn(0, 1, 2)
}

// TestFirstTerms: a node that was founded without terms for nodes, as the first of a domain may be, takes
// terms that it passes, and not those that it fails.
func TestFirstTerms(t *testing.T) {
	t.Parallel()
	b := foundBed(t, 1, false)
	roots, err := b.client("").PutObject(b.ctx, b.objects[2])
	if err != nil {
		t.Fatal(err)
	}
	if err := b.ask(admit.TypeObject, roots.String(), func(base uint64) ([]byte, error) {
		return (&admit.Object{Domain: b.digest, Digest: roots, Base: base, Kind: admit.ObjectRoots}).Text()
	}); err != nil {
		t.Fatal(err)
	}
	first := func(policy string) error {
		digest := b.policyText("keystead-policy/1\nname first\nminimum-assurance test\nsoftware report\nboot report\n" + policy)
		return b.ask(admit.TypeTerms, admit.RoleNode, func(base uint64) ([]byte, error) {
			return (&admit.Terms{Domain: b.digest, Role: admit.RoleNode, Base: base, Policy: digest, Roots: roots}).Text()
		})
	}
	names(t, "terms that the only node fails", first("rule other-firmware\n  require quote.firmware == \"none\"\n  otherwise have other firmware\n"), "node n1", "other-firmware", "1 of 1 nodes that run")
	if err := first("rule registers\n  require 10 in quote.pcrs\n  otherwise quote register 10\n"); err != nil {
		t.Errorf("terms that it passes: %v", err)
	}
}

// TestNewcomerIsJudged hands in changes that add a node with evidence of its machine: the node that takes
// them refuses hardware that is denied, a machine that runs what nodes may not, and evidence for another
// contact; and judges nothing for who is no member.
func TestNewcomerIsJudged(t *testing.T) {
	t.Parallel()
	b := newBed(t, 3)
	contact := b.node("n4")
	added, err := client.OpenContact(contact)
	if err != nil {
		t.Fatal(err)
	}
	shown := func(name string) []byte {
		t.Helper()
		raw, err := os.ReadFile(filepath.Join(b.dir, name, node.EvidenceFile))
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	hand := func(m key.Member, evidence []byte) error {
		t.Helper()
		v, err := b.client("").Show(b.ctx)
		if err != nil {
			t.Fatal(err)
		}
		change := receipt.Change{Domain: v.Domain, Sequence: v.Sequence + 1, After: v.Entry, Roster: v.Roster}
		change.Roster.Nodes = append(slices.Clone(v.Roster.Nodes), added.Node())
		text, err := change.Text()
		if err != nil {
			t.Fatal(err)
		}
		signed, err := m.Sign(text)
		if err != nil {
			t.Fatal(err)
		}
		entry, err := receipt.NoteEntry(signed)
		if err != nil {
			t.Fatal(err)
		}
		_, err = b.client("").SubmitNode(b.ctx, entry, contact, evidence)
		return err
	}
	subject := admit.DenyEK(b.identity(b.machines[3]))
	deny := func(lifted bool) {
		t.Helper()
		if err := b.ask(admit.TypeDenial, subject, func(base uint64) ([]byte, error) {
			return (&admit.Denial{Domain: b.digest, Subject: subject, Base: base, Because: "test", Lifted: lifted}).Text()
		}); err != nil {
			t.Fatal(err)
		}
	}
	good := shown("n4")
	deny(false)
	demand(t, "denied hardware", hand(b.member, good), keystead.ReasonHardwareDenied)
	deny(true)
	if _, err := b.machines[3].Advance(b.ctx); err != nil {
		t.Fatal(err)
	}
	altered, _, err := prover(b.machines[3]).Prove(b.ctx, node.EvidenceBinding(contact), nil)
	if err != nil {
		t.Fatal(err)
	}
	demand(t, "a machine that runs an altered file", hand(b.member, altered.Bytes()), keystead.ReasonFileAltered)
	b.node("n5")
	demand(t, "another machine's evidence", hand(b.member, shown("n5")), keystead.ReasonKeyForeign)
	other, _, err := prover(b.machines[3]).Prove(b.ctx, node.EvidenceBinding(append(slices.Clone(contact), '\n')), nil)
	if err != nil {
		t.Fatal(err)
	}
	demand(t, "evidence for another contact", hand(b.member, other.Bytes()), keystead.ReasonBundleReplayed)
	stranger, err := key.NewMember(rand.Reader, "stranger")
	if err != nil {
		t.Fatal(err)
	}
	demand(t, "by who is no member", hand(stranger, altered.Bytes()), keystead.ReasonThresholdMissing)
	if v, err := b.client("").Show(b.ctx); err != nil || len(v.Roster.Nodes) != 3 {
		t.Fatalf("the roster has %d nodes (%v)", len(v.Roster.Nodes), err)
	}
	if err := hand(b.member, good); err != nil {
		t.Errorf("as it was when its directory was made: %v", err)
	}
}

// TestRestartedThenBadTerms starts all nodes anew at once, and asks for terms that they fail before
// they have been up for a moment: that a node has not seen the others yet is no way in.
func TestRestartedThenBadTerms(t *testing.T) {
	t.Parallel()
	b := newBed(t, 3, "trust-disks=true")
	impossible := b.impossible()
	for i := range b.nodes {
		_ = b.end(i, syscall.SIGKILL)
	}
	for i := range b.nodes {
		b.start(i)
	}
	err := b.askTerms(func(t *admit.Terms) { t.Policy = impossible })
	names(t, "a policy that all fail, right after the start", err, "rule-failed", "other-firmware")
	lenient := b.lenientAs("lenient")
	if err := b.askTerms(func(t *admit.Terms) { t.Policy = lenient }); err != nil {
		t.Errorf("a policy that all pass, right after the start: %v", err)
	}
	b.goesOn(0, 1, 2)
}

// TestLiarEndorsesExclusion has one node of three endorse whatever terms members sign. The two that
// fail them hold, whoever else endorses; one that is away, and was never seen since the start of
// the others, neither passes nor falls out.
func TestLiarEndorsesExclusion(t *testing.T) {
	t.Parallel()
	b := newBed(t, 3, "trust-disks=true")
	lenient := b.lenientAs("lenient")
	if err := b.askTerms(func(t *admit.Terms) { t.Policy = lenient }); err != nil {
		t.Fatal(err)
	}
	if err := b.end(0, syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	b.nodes[0].env = append(b.nodes[0].env, lieEnv+"=terms")
	b.start(0)
	b.signing(0, 1, 2)
	for _, i := range []int{1, 2} {
		if _, err := b.machines[i].Advance(b.ctx); err != nil {
			t.Fatal(err)
		}
	}
	b.shownAnew(1)
	b.shownAnew(2)
	before, err := b.client("n1").State(b.ctx, nil, []string{admit.TypeTerms + "/" + admit.RoleNode})
	if err != nil {
		t.Fatal(err)
	}
	err = b.askTerms(func(*admit.Terms) {}) // the founding ones, which two fail
	names(t, "what a liar endorses", err, "node n2", "node n3", "/usr/bin/whoami")
	after, err := b.client("n1").State(b.ctx, nil, []string{admit.TypeTerms + "/" + admit.RoleNode})
	if err != nil || !slices.Equal(before.GetVersions(), after.GetVersions()) {
		t.Errorf("versions %v, then %v (%v)", before.GetVersions(), after.GetVersions(), err)
	}
	b.goesOn(0, 1, 2)

	_ = b.end(2, syscall.SIGKILL)
	time.Sleep(12 * time.Second) // longer than a node that does not tick is taken for one that runs
	second := admit.DenyEK(b.identity(b.machines[1]))
	err = b.ask(admit.TypeDenial, second, func(base uint64) ([]byte, error) {
		return (&admit.Denial{Domain: b.digest, Subject: second, Base: base, Because: "test", MayExclude: 1}).Text()
	})
	names(t, "one of two that are left, by a denial", err, "node n2", "2 of 3 nodes", "got n1")
	if err := b.end(1, syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	b.start(1)
	for _, i := range []int{0, 1} {
		b.until(i, "fresh", func(s *apiv1.StatusResponse) bool { return s.GetFresh() && s.GetUnsigned() == "" })
	}
	if err := b.askTerms(func(t *admit.Terms) { t.Policy = b.lenientAs("lenient-2") }); err != nil {
		t.Errorf("terms that have nobody fall out, with one node away: %v", err)
	}
	impossible := b.impossible()
	names(t, "terms that all fail, with one node away", b.askTerms(func(t *admit.Terms) { t.Policy = impossible }), "node n2")
}

// TestDenialOfMost has denials take effect that have the hardware of two nodes of three, as one could from before
// nodes were asked, and as two nodes of three could that lie: they count for none of them.
func TestDenialOfMost(t *testing.T) {
	t.Parallel()
	b := newBed(t, 3, "trust-disks=true")
	for i := range 2 {
		if err := b.end(i, syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		b.nodes[i].env = append(b.nodes[i].env, lieEnv+"=denials")
		b.start(i)
		b.signing(0, 1, 2)
	}
	deny := func(subject string) {
		t.Helper()
		if err := b.askAt("n1", admit.TypeDenial, subject, func(base uint64) ([]byte, error) {
			return (&admit.Denial{Domain: b.digest, Subject: subject, Base: base, Because: "test"}).Text()
		}); err != nil {
			t.Fatal(err)
		}
	}
	from := len(b.log(0))
	deny(admit.DenyEK(b.identity(b.machines[1])))
	deny(admit.DenyEK(b.identity(b.machines[2])))
	b.says(0, from, "it does not count for them", "hardware-denied")
	_ = b.end(2, syscall.SIGKILL) // and makes connections anew
	b.start(2)
	b.goesOn(0, 1, 2)
	if err := b.knock(b.nodes[0].place.API, b.nodes[2].dir, b.machines[2]); err != nil {
		t.Errorf("one of the nodes: %v", err)
	}
}
