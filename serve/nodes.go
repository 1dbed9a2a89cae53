package serve

import (
	"context"
	"net/http"
	"strings"
	"sync"

	"connectrpc.com/connect"

	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/api/v1/apiv1connect"
	"github.com/keystead/keystead/internal/refusal"
)

// Nodes is what nodes ask of each other.
type Nodes interface {
	// Witness judges evidence for renewals a second time.
	Witness(ctx context.Context, r *apiv1.WitnessRequest) (*apiv1.WitnessResponse, error)
	// CertifyNode signs the roster change that brings in a node's new signing key.
	CertifyNode(ctx context.Context, r *apiv1.CertifyNodeRequest) (*apiv1.CertifyNodeResponse, error)
	// GetRuling says what the node came to on a proposal, once it has.
	GetRuling(ctx context.Context, proposal keystead.Digest) (*apiv1.GetRulingResponse, error)
}

// Witness implements the API's NodeService.
func (s *server) Witness(ctx context.Context, r *connect.Request[apiv1.WitnessRequest]) (*connect.Response[apiv1.WitnessResponse], error) {
	if err := s.fromNode(ctx); err != nil {
		return nil, err
	}
	return answer(s.nodes.Witness(ctx, r.Msg))
}

// CertifyNode implements the API's NodeService.
func (s *server) CertifyNode(ctx context.Context, r *connect.Request[apiv1.CertifyNodeRequest]) (*connect.Response[apiv1.CertifyNodeResponse], error) {
	if s.nodes == nil {
		return nil, unimplemented()
	}
	return answer(s.nodes.CertifyNode(ctx, r.Msg)) // who has a new key is known by no name yet; the evidence is what counts
}

// GetRuling implements the API's NodeService.
func (s *server) GetRuling(ctx context.Context, r *connect.Request[apiv1.GetRulingRequest]) (*connect.Response[apiv1.GetRulingResponse], error) {
	if err := s.fromNode(ctx); err != nil {
		return nil, err
	}
	var id keystead.Digest
	if len(r.Msg.GetProposal()) != len(id) {
		return nil, malformed("proposal", "is %d bytes, not %d", len(r.Msg.GetProposal()), len(id))
	}
	return answer(s.nodes.GetRuling(ctx, keystead.Digest(r.Msg.GetProposal())))
}

// fromNode refuses requests of others than the domain's nodes.
func (s *server) fromNode(ctx context.Context) error {
	if s.nodes == nil {
		return unimplemented()
	}
	if p := PeerOf(ctx); p.Node == "" {
		return keystead.Deny(notNode())
	}
	return nil
}

func notNode() keystead.Finding {
	return keystead.Finding{Reason: keystead.ReasonNotMember, Where: "connection", Want: "a node of the domain", Got: "another client"}
}

func cutSubject(s string) (kind, subject string, ok bool) {
	kind, subject, ok = strings.Cut(s, "/")
	return kind, subject, ok && kind != "" && subject != ""
}

// Bounds of the bytes of evidence that are being read at a time: of all together, of one
// machine's, and of one node's, which asks for batches.
const (
	maxReading = 512 << 20
	maxOfOne   = 64 << 20
	maxOfNode  = 192 << 20
)

// reading counts the bytes of evidence that are being read.
type reading struct {
	mu  sync.Mutex
	all int64
	of  map[Peer]int64
}

// begin takes room, and reports whether there was some.
func (r *reading) begin(p Peer, size int64) bool {
	most := int64(maxOfOne)
	if p.Node != "" {
		most = maxOfNode
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.all+size > maxReading || r.of[p]+size > most {
		return false
	}
	r.all += size
	r.of[p] += size
	return true
}

func (r *reading) end(p Peer, size int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all -= size
	if r.of[p] -= size; r.of[p] == 0 {
		delete(r.of, p)
	}
}

// evidenceGate lets evidence in that comes from those who may send some, nodes and
// machines whose connection showed what they are, and no more of it at a time than
// memory has room for: a request's body is read whole before a handler sees it.
func evidenceGate(next http.Handler) http.Handler {
	now := reading{of: map[Peer]int64{}}
	says := connect.NewErrorWriter()
	refuse := func(w http.ResponseWriter, r *http.Request, f keystead.Finding) {
		_ = says.Write(w, r, refusal.Encode(keystead.Deny(f))) // who is gone is not told
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case apiv1connect.HostServiceAdmitProcedure, apiv1connect.HostServiceRenewProcedure, apiv1connect.NodeServiceWitnessProcedure, apiv1connect.NodeServiceCertifyNodeProcedure:
			from := PeerOf(r.Context())
			from.TLS = keystead.Digest{} // whoever has a machine has as many of these as it likes
			if from.Node == "" && from.EK.IsZero() {
				f := keystead.Finding{Reason: keystead.ReasonEvidenceMissing, Where: "connection", Want: "an attested connection of a host or a node", Got: "one without evidence"}
				if strings.HasPrefix(r.URL.Path, "/"+apiv1connect.NodeServiceName+"/") {
					f = notNode()
				}
				refuse(w, r, f)
				return
			}
			size := r.ContentLength
			if size < 0 || size > maxEvidence {
				size = maxEvidence
			}
			if !now.begin(from, size) {
				refuse(w, r, keystead.Finding{Reason: keystead.ReasonOverloaded, Where: "api", Want: "less evidence under way", Got: "as much as memory is for"})
				return
			}
			defer now.end(from, size)
			r.Body = http.MaxBytesReader(w, r.Body, maxEvidence+(64<<10))
		}
		next.ServeHTTP(w, r)
	})
}
