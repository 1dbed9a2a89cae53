package attest

import (
	"cmp"
	"fmt"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/evidence"
)

// A Peer is who the other side of a connection is, as evidence bound to that
// connection showed. It is minted here alone; the zero value is nobody.
type Peer struct {
	identity keystead.Digest
	name     string
	verdict  appraise.Verdict
}

// IsZero reports whether nothing is known of the other side.
func (p Peer) IsZero() bool { return !p.verdict.Allowed() }

// Identity names the peer's hardware: SHA-256 of its endorsement key's public key
// (PKIX DER), the claim key.ek; of a host with a TEE alone that of kind, machine and the
// host's key ([evidence.TEEHost.Identity]).
func (p Peer) Identity() keystead.Digest { return p.identity }

// Name is what the verifier calls the peer.
func (p Peer) Name() string { return p.name }

// Verdict is what the peer's evidence showed.
func (p Peer) Verdict() appraise.Verdict { return p.verdict }

// mintTEE makes the peer of a TEE's verdict: of the kind, machine and key by which it
// introduced itself, as the verdict has them.
func mintTEE(name string, v appraise.Verdict, c Claim) (Peer, error) {
	host, err := shown(v, c.Keys.TEE)
	if err != nil {
		return Peer{}, err
	}
	return Peer{identity: host.Identity(), name: name, verdict: v}, nil
}

// shown returns the host that a TEE's verdict is of, if that is the one wanted.
func shown(v appraise.Verdict, want evidence.TEEHost) (evidence.TEEHost, error) {
	claims := v.Claims().TEE
	got := evidence.TEEHost{Kind: claims.Kind, Machine: claims.Machine, Key: keystead.Sum(v.Inputs().SubjectKey)}
	if !v.Answered() || got != want {
		return got, keystead.Deny(keystead.Finding{Reason: keystead.ReasonHardwareForeign, Where: "verdict",
			Want: fmt.Sprintf("evidence of %s %s, as the peer introduced itself", want.Kind, want.Machine), Got: fmt.Sprintf("of %s %s", cmp.Or(got.Kind, "no TEE alone"), got.Machine)})
	}
	return got, nil
}

// Key is the attestation key that made the evidence, as it was accepted; zero of a host
// with a TEE alone.
func (p Peer) Key() appraise.AcceptedKey { return p.verdict.Inputs().Key }

// mint makes the peer of a verdict that allows it and is over this claim's bundle and
// binding. It believes no verifier in that.
func mint(name string, v appraise.Verdict, c Claim) (Peer, error) {
	if err := v.Err(); err != nil {
		return Peer{}, err
	}
	in := v.Inputs()
	judged := evidence.Binding{Purpose: in.Purpose, Nonce: in.Nonce, SubjectKey: in.SubjectKey}
	if in.Bundle != c.Bundle.Digest() || !same(judged, c.Expect) {
		return Peer{}, keystead.Deny(keystead.Finding{Reason: keystead.ReasonNonceMismatch, Where: "verdict",
			Want: fmt.Sprintf("a verdict on bundle %v as evidence of this connection", c.Bundle.Digest()), Got: fmt.Sprintf("one on %v for purpose %.40q", in.Bundle, in.Purpose)})
	}
	if !c.Keys.TEE.IsZero() {
		return mintTEE(name, v, c)
	}
	id, err := keystead.ParseDigest(v.Claims().Key.EK)
	if err != nil {
		return Peer{}, keystead.Deny(keystead.Finding{Reason: keystead.ReasonAKUnbound, Where: "verdict",
			Want: "an attestation key that was activated beside an endorsement key", Got: "ak-binding=" + v.Claims().Key.Binding})
	}
	return Peer{identity: id, name: name, verdict: v}, nil
}
