package attest

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"net"
	"slices"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/evidence"
)

// A mallory is one leg of an attacker who speaks TLS like a party, with a key of its
// own, and frames as it likes.
type mallory struct {
	*tls.Conn
	cert tls.Certificate
	role role
}

// newMallory is the other side of raw: role is the attacker's.
func newMallory(t testing.TB, raw net.Conn, r role) *mallory {
	t.Helper()
	cert, err := NewCertificate()
	if err != nil {
		t.Fatal(err)
	}
	cfg := (&Config{Certificate: cert}).tls()
	m := &mallory{tls.Client(raw, cfg), cert, r}
	if r == roleServer {
		m.Conn = tls.Server(raw, cfg)
	}
	t.Cleanup(func() { raw.Close() })
	return m
}

// channel is what the attacker's leg could bind evidence to.
func (m *mallory) channel(t testing.TB) *channel {
	t.Helper()
	c, err := newChannel(m.ConnectionState(), &m.cert, m.role)
	if err != nil {
		t.Error(err)
	}
	return c
}

// next reads a frame of that kind; nil at the leg's end.
func (m *mallory) next(k kind) []byte {
	got, payload, err := readFrame(m, k, defaultMaxBundle, anyRoom)
	if err != nil || got != k {
		return nil
	}
	return payload
}

// between terminates TLS towards both genuine parties and passes frames on. It may
// change an evidence frame's payload on its way; toward is the leg it goes out on.
func between(t testing.TB, alice, bob Config, change func(payload []byte, hello hello, toward *mallory) []byte) (c, s end) {
	t.Helper()
	a, ma := net.Pipe()
	b, mb := net.Pipe()
	left, right := begin(t, roleClient, a, alice), begin(t, roleServer, b, bob)
	toAlice, toBob := newMallory(t, ma, roleServer), newMallory(t, mb, roleClient)
	for _, m := range []*mallory{toAlice, toBob} {
		if err := m.Handshake(); err != nil {
			t.Fatal(err)
		}
	}
	hellos := make(chan [2]hello, 2)
	seen := make(chan struct {
		to    *mallory
		hello hello
	}, 2)
	relay := func(from, to *mallory) {
		var theirs hello // of the side that the evidence goes to
		for _, k := range []kind{kindHello, kindChallenge, kindEvidence, kindVerdict} {
			got, payload, err := readFrame(from, k, defaultMaxBundle, anyRoom)
			if err != nil {
				break
			}
			if got == kindHello {
				h, _ := parseHello(payload)
				seen <- struct {
					to    *mallory
					hello hello
				}{from, h}
			}
			if got == kindEvidence && change != nil {
				both := <-hellos
				theirs = both[0]
				if to == toBob {
					theirs = both[1]
				}
				payload = change(payload, theirs, to)
			}
			to.Write(newFrame(got, func(b []byte) []byte { return append(b, payload...) }))
		}
		to.NetConn().Close()
	}
	go relay(toAlice, toBob)
	go relay(toBob, toAlice)
	go func() {
		var both [2]hello // alice's, bob's
		for range both {
			s := <-seen
			if s.to == toAlice {
				both[0] = s.hello
			} else {
				both[1] = s.hello
			}
		}
		hellos <- both
		hellos <- both
	}()
	return <-left, <-right
}

// TestRelayed: a man in the middle has TLS with both of two genuine parties and
// passes their frames on. Neither side connects, whatever he makes the evidence say
// of itself.
func TestRelayed(t *testing.T) {
	s := onStage(t)
	alice, bob := s.config(s.alice, s.bob), s.config(s.bob, s.alice)
	c, d := between(t, alice, bob, nil)
	demand(t, "client", c.err, keystead.ReasonEvidenceRelayed)
	demand(t, "server", d.err, keystead.ReasonEvidenceRelayed)
	if isTold(c.err) && isTold(d.err) {
		t.Error("both have it from the other side, which said nothing")
	}

	restate := func(payload []byte, theirs hello, toward *mallory) []byte {
		answer, bundle, err := parseEvidence(payload)
		if err != nil {
			t.Error(err)
		}
		forged := restated(t, bundle, toward.channel(t).ours(theirs.nonce))
		return evidenceFrame(answer, forged)[headerSize:]
	}
	c, d = between(t, alice, bob, restate)
	demand(t, "restated: client", c.err, keystead.ReasonNonceMismatch)
	demand(t, "restated: server", d.err, keystead.ReasonNonceMismatch)
}

// TestReflected: a stranger has a server that knows itself, as each node of a domain
// does, answer its own challenge and sends its evidence back.
func TestReflected(t *testing.T) {
	s := onStage(t)
	for _, r := range []role{roleClient, roleServer} { // of the stranger
		for what, tc := range map[string]struct {
			restate bool
			want    keystead.Reason
		}{
			"as it came":                 {false, keystead.ReasonEvidenceReflected},
			"restated as the stranger's": {true, keystead.ReasonNonceMismatch},
		} {
			a, b := net.Pipe()
			victim := begin(t, r.peer(), a, s.config(s.bob, s.bob))
			m := newMallory(t, b, r)
			if err := m.Handshake(); err != nil {
				t.Fatal(err)
			}
			theirs, err := parseHello(m.next(kindHello))
			if err != nil {
				t.Fatal(err)
			}
			m.Write(hello{keys: theirs.keys}.frame())
			challenge := m.next(kindChallenge)
			m.Write(newFrame(kindChallenge, func(b []byte) []byte { return append(b, challenge...) }))
			answer, bundle, err := parseEvidence(m.next(kindEvidence))
			if err != nil {
				t.Fatal(err)
			}
			if tc.restate {
				bundle = restated(t, bundle, m.channel(t).ours(theirs.nonce))
			}
			m.Write(evidenceFrame(answer, bundle))
			go func() {
				m.next(kindVerdict)
				m.NetConn().Close()
			}()
			e := <-victim
			demand(t, what+", stranger as "+string(r), e.err, tc.want)
			if isTold(e.err) {
				t.Errorf("%s: the victim has it from the stranger: %v", what, e.err)
			}
		}
	}
}

// TestStaleEvidence: evidence of an earlier connection of the same two parties.
func TestStaleEvidence(t *testing.T) {
	s := onStage(t)
	bob := s.config(s.bob, s.alice)
	kept, restate := evidence.Bundle{}, false
	again := s.alice.as()
	again.prove = func(b evidence.Binding, c *evidence.Credential) (evidence.Bundle, []byte, error) {
		fresh, answer, err := s.alice.prover.Prove(ctx, b, c)
		switch {
		case kept.Bytes() == nil:
			kept = fresh
		case restate:
			return restated(t, kept, b), answer, err
		}
		return kept, answer, err
	}
	alice := s.config(s.alice, s.bob)
	alice.Prover = again
	if c, d := meet(t, alice, bob); c.err != nil || d.err != nil {
		t.Fatalf("the first time: client: %v; server: %v", c.err, d.err)
	}
	for _, tc := range []struct {
		restate bool
		want    keystead.Reason
	}{{false, keystead.ReasonEvidenceRelayed}, {true, keystead.ReasonNonceMismatch}} {
		restate = tc.restate
		c, d := meet(t, alice, bob)
		demand(t, "server", d.err, tc.want)
		demand(t, "client", c.err, tc.want)
		if !isTold(c.err) {
			t.Errorf("the client holds it against the server: %v", c.err)
		}
	}
}

// TestPurposes: evidence for another purpose is none for a connection, and evidence
// of a connection is none for another purpose.
func TestPurposes(t *testing.T) {
	s := onStage(t)
	for what, tc := range map[string]struct {
		purpose string
		restate bool
		want    keystead.Reason
	}{
		"verify":                 {evidence.PurposeVerify, false, keystead.ReasonPurposeMismatch},
		"admission":              {"admission", false, keystead.ReasonPurposeMismatch},
		"verify, said otherwise": {evidence.PurposeVerify, true, keystead.ReasonNonceMismatch},
	} {
		other := s.alice.as()
		other.prove = func(b evidence.Binding, c *evidence.Credential) (evidence.Bundle, []byte, error) {
			wrong := b
			wrong.Purpose = tc.purpose
			bundle, answer, err := s.alice.prover.Prove(ctx, wrong, c)
			if tc.restate && err == nil {
				bundle = restated(t, bundle, b)
			}
			return bundle, answer, err
		}
		alice := s.config(s.alice, s.bob)
		alice.Prover = other
		c, d := meet(t, alice, s.config(s.bob, s.alice))
		demand(t, what, d.err, tc.want)
		demand(t, what, c.err, tc.want)
	}

	var shown Claim
	watched := s.config(s.bob, s.alice)
	watched.Verifier = watching{watched.Verifier, &shown}
	c, d := meet(t, s.config(s.alice, s.bob), watched)
	if c.err != nil || d.err != nil {
		t.Fatalf("client: %v; server: %v", c.err, d.err)
	}
	known, _ := s.knowing(s.alice)(ctx, s.alice.id)
	in := known.Input
	in.Bundle, in.Key, in.Expect = shown.Bundle, d.conn.Peer().Key(), shown.Expect
	if v := appraise.Appraise(in); !v.Allowed() {
		t.Fatalf("as evidence of the connection: %v", v.Err())
	}
	for _, purpose := range []string{evidence.PurposeVerify, "admission", "renewal"} {
		in.Expect.Purpose = purpose
		demand(t, "connection's evidence for "+purpose, appraise.Appraise(in).Err(), keystead.ReasonBundleReplayed)
	}
}

// watching keeps the claim.
type watching struct {
	Verifier
	seen *Claim
}

func (w watching) Verify(ctx context.Context, c Claim) (string, appraise.Verdict, error) {
	*w.seen = c
	return w.Verifier.Verify(ctx, c)
}

// TestWrongTPM: an endorsement key of one TPM with the attestation key of another, and
// evidence by another key than the one introduced.
func TestWrongTPM(t *testing.T) {
	s := onStage(t)
	mixed := s.alice.keys
	mixed.EKPublic, mixed.EKCertificate = s.carol.keys.EKPublic, s.carol.keys.EKCertificate
	bob := s.config(s.bob, s.alice, s.carol)
	alice := s.config(s.alice, s.bob)

	liar := s.alice.as()
	liar.introduce = func() (evidence.TPMKeys, error) { return mixed, nil }
	alice.Prover = liar
	c, d := meet(t, alice, bob)
	demand(t, "a TPM that can not open it: client", c.err, keystead.ReasonCredentialInvalid)
	demand(t, "a TPM that can not open it: server", d.err, keystead.ReasonCredentialInvalid)
	if isTold(c.err) || !isTold(d.err) {
		t.Errorf("it is the client's TPM that found it: client %v, server %v", c.err, d.err)
	}

	for what, answer := range map[string][]byte{"none": nil, "a guess": make([]byte, 32), "too short": {1}} {
		liar.prove = func(b evidence.Binding, _ *evidence.Credential) (evidence.Bundle, []byte, error) {
			bundle, _, err := s.alice.prover.Prove(ctx, b, nil)
			return bundle, answer, err
		}
		alice.Prover = liar
		c, d = meet(t, alice, bob)
		demand(t, what+": server", d.err, keystead.ReasonCredentialInvalid)
		demand(t, what+": client", c.err, keystead.ReasonCredentialInvalid)
		if isTold(d.err) || !isTold(c.err) {
			t.Errorf("%s: it is the server that found it: client %v, server %v", what, c.err, d.err)
		}
	}

	helped := s.alice.as()
	helped.prove = func(b evidence.Binding, c *evidence.Credential) (evidence.Bundle, []byte, error) {
		_, answer, err := s.alice.prover.Prove(ctx, b, c)
		if err != nil {
			return evidence.Bundle{}, nil, err
		}
		bundle, _, err := s.carol.prover.Prove(ctx, b, nil)
		return bundle, answer, err
	}
	alice.Prover = helped
	_, d = meet(t, alice, bob)
	demand(t, "evidence by another TPM", d.err, keystead.ReasonKeyForeign)
}

// TestUnknownTPM: a genuine TPM in good state that nobody enrolled, and one that is
// not certified by a configured authority.
func TestUnknownTPM(t *testing.T) {
	s := onStage(t)
	c, d := meet(t, s.config(s.carol, s.bob), s.config(s.bob, s.alice))
	demand(t, "server", d.err, keystead.ReasonNotMember)
	demand(t, "client", c.err, keystead.ReasonNotMember)
	if !isTold(c.err) || isTold(d.err) {
		t.Errorf("the server refuses and tells: client %v, server %v", c.err, d.err)
	}
	c, d = meet(t, s.config(s.alice, s.bob), s.config(s.carol, s.alice))
	demand(t, "an unknown server: client", c.err, keystead.ReasonNotMember)
	demand(t, "an unknown server: server", d.err, keystead.ReasonNotMember)

	strict := s.config(s.bob, s.alice)
	strict.Verifier = NewAppraiser(func(ctx context.Context, id keystead.Digest) (Terms, error) {
		terms, err := s.knowing(s.alice)(ctx, id)
		terms.Input.EKRoots.Test = nil
		return terms, err
	})
	c, d = meet(t, s.config(s.alice, s.bob), strict)
	demand(t, "no root: server", d.err, keystead.ReasonEKUntrusted)
	demand(t, "no root: client", c.err, keystead.ReasonEKUntrusted)
}

// TestRefusal: the refused side learns each finding that speaks against it.
func TestRefusal(t *testing.T) {
	s := onStage(t)
	strict := s.config(s.bob, s.alice)
	strict.Verifier = NewAppraiser(func(ctx context.Context, id keystead.Digest) (Terms, error) {
		terms, err := s.knowing(s.alice)(ctx, id)
		terms.Input.CodeSets = nil
		terms.Input.References = nil
		return terms, err
	})
	c, d := meet(t, s.config(s.alice, s.bob), strict)
	demand(t, "server", d.err, keystead.ReasonBootUnaccepted)
	demand(t, "client", c.err, keystead.ReasonBootUnaccepted)
	var found, heard []keystead.Reason
	for _, f := range asDeny(t, d.err).Findings {
		found = append(found, f.Reason)
	}
	for _, f := range asDeny(t, c.err).Findings {
		heard = append(heard, f.Reason)
	}
	if !isTold(c.err) || len(found) < 2 || !slices.Equal(heard, found[:min(len(found), maxFindings)]) {
		t.Errorf("the server found %v, the client heard %v", found, heard)
	}
}

// TestVerifierAtFault: a verifier that answers with a verdict on something else, with
// one that ties no key to a TPM, or with none, admits nobody. What is wrong with it
// stays at its side.
func TestVerifierAtFault(t *testing.T) {
	s := onStage(t)
	earlier, d := meet(t, s.config(s.alice, s.bob), s.config(s.bob, s.alice))
	if d.err != nil {
		t.Fatal(d.err)
	}
	_ = earlier
	for what, tc := range map[string]struct {
		verify      func(Claim) (appraise.Verdict, error)
		want, heard keystead.Reason
	}{
		"the verdict of an earlier connection": {func(Claim) (appraise.Verdict, error) { return d.conn.Peer().Verdict(), nil }, keystead.ReasonNonceMismatch, keystead.ReasonNonceMismatch},
		"no verdict":                           {func(Claim) (appraise.Verdict, error) { return appraise.Verdict{}, nil }, keystead.ReasonEvidenceMissing, keystead.ReasonEvidenceMissing},
		"a verdict on another question": {func(c Claim) (appraise.Verdict, error) {
			terms, _ := s.knowing(s.alice)(ctx, s.alice.id)
			terms.Input.Bundle, terms.Input.Key, terms.Input.Expect = c.Bundle, d.conn.Peer().Key(), c.Expect
			terms.Input.Expect.SubjectKey = nil
			return appraise.Appraise(terms.Input), nil
		}, keystead.ReasonBundleReplayed, keystead.ReasonBundleReplayed},
		"a key that is only named": {func(c Claim) (appraise.Verdict, error) {
			terms, _ := s.knowing(s.alice)(ctx, s.alice.id)
			terms.Input.Bundle, terms.Input.Expect = c.Bundle, c.Expect
			terms.Input.Key = appraise.AcceptedKey{Name: d.conn.Peer().Key().Name}
			terms.Input.Policy = lax(t)
			return appraise.Appraise(terms.Input), nil
		}, keystead.ReasonAKUnbound, keystead.ReasonAKUnbound},
		"a fault": {func(Claim) (appraise.Verdict, error) { return appraise.Verdict{}, context.Canceled }, "", keystead.ReasonAttestationFailed},
	} {
		bob := s.config(s.bob, s.alice)
		bob.Verifier = judging{bob.Verifier, tc.verify}
		c, e := meet(t, s.config(s.alice, s.bob), bob)
		if tc.want != "" {
			demand(t, what+": server", e.err, tc.want)
		} else if e.err != context.Canceled {
			t.Errorf("%s: want the verifier's own error, got %v", what, e.err)
		}
		demand(t, what+": client", c.err, tc.heard)
		if e.conn != nil || c.conn != nil {
			t.Errorf("%s: there is a connection", what)
		}
	}
}

// judging has verdicts of a test's making.
type judging struct {
	Verifier
	verify func(Claim) (appraise.Verdict, error)
}

func (j judging) Verify(_ context.Context, c Claim) (string, appraise.Verdict, error) {
	v, err := j.verify(c)
	return "somebody", v, err
}

// TestProverAtFault: the other side learns that there was a fault, and not which.
func TestProverAtFault(t *testing.T) {
	s := onStage(t)
	broken := s.alice.as()
	broken.prove = func(evidence.Binding, *evidence.Credential) (evidence.Bundle, []byte, error) {
		return evidence.Bundle{}, nil, net.ErrClosed
	}
	alice := s.config(s.alice, s.bob)
	alice.Prover = broken
	c, d := meet(t, alice, s.config(s.bob, s.alice))
	if c.err == nil || isTold(c.err) {
		t.Errorf("client: want its own fault, got %v", c.err)
	}
	demand(t, "server", d.err, keystead.ReasonAttestationFailed)

	for what, keys := range map[string]evidence.TPMKeys{
		"a large key":         {AKPublic: make([]byte, maxPublic+1)},
		"a large certificate": {EKCertificate: [][]byte{make([]byte, maxCert+1)}},
		"a long chain":        {EKCertificate: make([][]byte, maxCerts+1)},
		"large all together":  {EKCertificate: slices.Repeat([][]byte{make([]byte, maxCert)}, maxCerts)},
	} {
		broken.introduce = func() (evidence.TPMKeys, error) { return keys, nil }
		alice.Prover = broken
		c, _ := meet(t, alice, s.config(s.bob, s.alice))
		demand(t, what, c.err, keystead.ReasonMalformed)
	}
	broken = s.alice.as()
	broken.prove = func(evidence.Binding, *evidence.Credential) (evidence.Bundle, []byte, error) {
		return evidence.Bundle{}, make([]byte, maxAnswer+1), nil
	}
	alice.Prover = broken
	c, _ = meet(t, alice, s.config(s.bob, s.alice))
	demand(t, "a long answer", c.err, keystead.ReasonMalformed)
}

// TestEvidenceTooLarge: the verifier's bound holds for an honest peer too.
func TestEvidenceTooLarge(t *testing.T) {
	s := onStage(t)
	bob := s.config(s.bob, s.alice)
	bob.MaxBundle = 4096
	c, d := meet(t, s.config(s.alice, s.bob), bob)
	demand(t, "server", d.err, keystead.ReasonMalformed)
	demand(t, "client", c.err, keystead.ReasonMalformed)
}

// TestBindings: every input of the binding counts, and neither side's is the other's.
func TestBindings(t *testing.T) {
	fill := func(seed byte) (s side) {
		s.ekm = make([]byte, 32)
		rand.Read(s.leaf[:])
		s.ekm[0], s.key = seed, []byte{seed}
		return s
	}
	c := channel{roleClient, fill(1), fill(2)}
	mirrored := channel{roleServer, c.peer, c.own}
	n := [nonceSize]byte{7}
	if a, b := c.ours(n), mirrored.theirs(n); !same(a, b) {
		t.Errorf("the two sides of a channel differ on the client's binding: %v, %v", a, b)
	}
	if a, b := c.theirs(n), mirrored.ours(n); !same(a, b) {
		t.Errorf("the two sides of a channel differ on the server's binding: %v, %v", a, b)
	}
	base := c.ours(n)
	for what, other := range map[string]evidence.Binding{
		"role":        bind(roleServer, &c.own, &c.peer, n),
		"side":        c.theirs(n),
		"nonce":       c.ours([nonceSize]byte{8}),
		"exporter":    bind(roleClient, &side{c.own.leaf, c.own.key, c.peer.ekm}, &c.peer, n),
		"own leaf":    bind(roleClient, &side{c.peer.leaf, c.own.key, c.own.ekm}, &c.peer, n),
		"peer's leaf": bind(roleClient, &c.own, &side{leaf: c.own.leaf}, n),
		"own key":     bind(roleClient, &side{c.own.leaf, c.peer.key, c.own.ekm}, &c.peer, n),
	} {
		if string(other.QualifyingData()) == string(base.QualifyingData()) {
			t.Errorf("%s does not count", what)
		}
	}
}

// TestStolenKey: another machine with the TLS key of a known one, or a known machine's
// hello, is still that other machine.
func TestStolenKey(t *testing.T) {
	s := onStage(t)
	thief := s.config(s.carol, s.bob)
	thief.Certificate = s.alice.cert
	_, d := meet(t, thief, s.config(s.bob, s.alice))
	demand(t, "the key alone", d.err, keystead.ReasonNotMember)

	bob := s.config(s.bob, s.alice)
	if c, d := meet(t, s.config(s.alice, s.bob), bob); c.err != nil || d.err != nil { // now her key is accepted
		t.Fatalf("client: %v; server: %v", c.err, d.err)
	}
	posing := s.carol.as()
	posing.introduce = func() (evidence.TPMKeys, error) { return s.alice.keys, nil }
	thief.Prover = posing
	_, d = meet(t, thief, bob)
	demand(t, "the key and the keys' public halves", d.err, keystead.ReasonKeyForeign)
}

// TestBindingStays: the first version's binding, written out as docs/spec/attest.md
// has it. It never changes.
func TestBindingStays(t *testing.T) {
	fill := func(b byte) (out [32]byte) { return [32]byte(bytes.Repeat([]byte{b}, 32)) }
	ekm, nonce := fill(1), fill(2)
	own, peer := side{leaf: fill(3), key: []byte("spki"), ekm: ekm[:]}, side{leaf: fill(4)}
	want := sha256.Sum256(slices.Concat([]byte("keystead/attest/1\x00server\x00"), ekm[:], nonce[:], own.leaf[:], peer.leaf[:]))
	got := bind(roleServer, &own, &peer, nonce)
	if got.Purpose != "connection" || !bytes.Equal(got.Nonce, want[:]) || string(got.SubjectKey) != "spki" {
		t.Errorf("got %+v, want nonce %x", got, want)
	}
	if hex := fmt.Sprintf("%x", got.QualifyingData()); hex != "5ab3e736a46d07e98661f9ce8c6426dc523caace64da29b2d34e935ae468e889" {
		t.Errorf("qualifying data is %s", hex)
	}
	if roleClient.label() != "EXPERIMENTAL keystead-attest/1 client" || roleServer.label() != "EXPERIMENTAL keystead-attest/1 server" || Protocol != "keystead-attest/1" {
		t.Error("labels or protocol have changed")
	}
}
