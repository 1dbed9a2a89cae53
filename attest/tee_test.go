package attest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/collect"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/foundry"
	"github.com/keystead/keystead/policy"
)

// TestTEEPeers: a host whose TEE speaks alone is known by kind, machine and TLS key; not by
// what it says that it is, by the evidence of others, or where TEEs do not count.
func TestTEEPeers(t *testing.T) {
	s := onStage(t)
	foundry.Now = time.Now().UTC()
	amd := foundry.NewAMD(1)
	p, err := policy.Compile([]byte("keystead-policy/1\nname tee\nminimum-assurance test\nsoftware report\nboot report\ntee accepted\nrules none\n"), appraise.Vocabulary())
	if err != nil {
		t.Fatal(err)
	}
	accepts := appraise.Input{Policy: p, TEERoots: evidence.VendorRoots{Test: amd.Roots().Hardware}, Collateral: foundry.Collateral(amd.Pieces(false)...)}
	cert, err := NewCertificate()
	if err != nil {
		t.Fatal(err)
	}
	id := evidence.TEEHost{Kind: evidence.KindSNP, Machine: fmt.Sprintf("%x", amd.ChipID), Key: keystead.Sum(cert.Leaf.RawSubjectPublicKeyInfo)}
	report := func(b evidence.Binding) *evidence.TEE {
		return &evidence.TEE{Kind: evidence.KindSNP, Report: amd.Report(b.ReportData(nil), nil), Certificates: amd.Certificates()}
	}
	prove := func(b evidence.Binding, _ *evidence.Credential) (evidence.Bundle, []byte, error) {
		out, err := evidence.New(evidence.Parts{Binding: b, TEE: report(b)})
		return out, nil, err
	}
	intro := func(h evidence.TEEHost) func() (evidence.TPMKeys, error) {
		return func() (evidence.TPMKeys, error) { return evidence.TPMKeys{TEE: h}, nil }
	}
	honest := acting{introduce: intro(id), prove: prove}
	asked := keystead.Digest{}
	meets := func(who acting, in appraise.Input) (Peer, error) {
		t.Helper()
		in.Time = time.Now().UTC()
		server := s.config(s.bob, s.alice)
		server.Verifier = NewAppraiser(func(_ context.Context, got keystead.Digest) (Terms, error) {
			asked = got
			return Terms{Name: "guest", Input: in}, nil
		})
		client := s.config(s.alice, s.bob)
		client.Certificate, client.Prover = cert, who
		_, d := meet(t, client, server)
		if d.err != nil {
			return Peer{}, d.err
		}
		return d.conn.Peer(), nil
	}
	peer, err := meets(honest, accepts)
	if err != nil || peer.Identity() != id.Identity() || asked != id.Identity() || !peer.Key().IsZero() || peer.Name() != "guest" {
		t.Fatalf("%v is known as %v, asked for %v", err, peer.Identity(), asked)
	}
	liar := id
	liar.Machine = "another"
	_, err = meets(acting{introduce: intro(liar), prove: prove}, accepts)
	demand(t, "another machine", err, keystead.ReasonHardwareForeign)
	liar = id
	liar.Kind = evidence.KindTDX
	_, err = meets(acting{introduce: intro(liar), prove: prove}, accepts)
	demand(t, "another kind", err, keystead.ReasonHardwareForeign)
	posing := acting{introduce: s.alice.as().introduce, prove: func(b evidence.Binding, c *evidence.Credential) (evidence.Bundle, []byte, error) {
		answer, err := s.alice.tpm.Activate(ctx, collect.AKECC, c.Blob, c.Secret)
		if err != nil {
			return evidence.Bundle{}, nil, err
		}
		out, _, err := prove(b, nil)
		return out, answer, err
	}}
	both := accepts
	both.EKRoots = s.input.EKRoots
	_, err = meets(posing, both)
	demand(t, "a TEE's evidence by the name of a TPM", err, keystead.ReasonAKUnbound)
	none := accepts
	none.TEERoots = evidence.VendorRoots{}
	_, err = meets(honest, none)
	demand(t, "where TEEs do not count", err, keystead.ReasonVendorUntrusted)
	other := acting{introduce: intro(id), prove: func(b evidence.Binding, _ *evidence.Credential) (evidence.Bundle, []byte, error) {
		theirs := b
		theirs.SubjectKey = []byte("another guest's key")
		out, err := evidence.New(evidence.Parts{Binding: b, TEE: report(theirs)})
		return out, nil, err
	}}
	_, err = meets(other, accepts)
	demand(t, "another guest's report", err, keystead.ReasonNonceMismatch)
	var old evidence.Bundle
	keeping := acting{introduce: intro(id), prove: func(b evidence.Binding, c *evidence.Credential) (out evidence.Bundle, _ []byte, err error) {
		out, _, err = prove(b, c)
		if old.Bytes() == nil {
			old = out
		}
		return old, nil, err
	}}
	if _, err = meets(keeping, accepts); err != nil {
		t.Fatal(err)
	}
	_, err = meets(keeping, accepts)
	demand(t, "a report of an earlier connection", err, keystead.ReasonEvidenceRelayed)
}
