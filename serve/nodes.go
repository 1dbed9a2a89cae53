package serve

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"

	"connectrpc.com/connect"

	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/api/v1/apiv1connect"
)

// Nodes is what nodes ask of each other.
type Nodes interface {
	// Witness judges evidence for renewals a second time.
	Witness(ctx context.Context, r *apiv1.WitnessRequest) (*apiv1.WitnessResponse, error)
	// CertifyNode signs the roster change that brings in a node's new signing key.
	CertifyNode(ctx context.Context, r *apiv1.CertifyNodeRequest) (*apiv1.CertifyNodeResponse, error)
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

// fromNode refuses requests of others than the domain's nodes.
func (s *server) fromNode(ctx context.Context) error {
	if s.nodes == nil {
		return unimplemented()
	}
	if p := PeerOf(ctx); p.Node == "" {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonNotMember, Where: "connection", Want: "a node of the domain", Got: "another client"})
	}
	return nil
}

func cutSubject(s string) (kind, subject string, ok bool) {
	kind, subject, ok = strings.Cut(s, "/")
	return kind, subject, ok && kind != "" && subject != ""
}

// maxReading bounds the bytes of evidence that are being read at a time.
const maxReading = 512 << 20

// evidenceGate lets evidence in that comes from those who may send some, and no more
// of it at a time than memory has room for: a request's body is read whole before a
// handler sees it.
func evidenceGate(next http.Handler) http.Handler {
	var reading atomic.Int64
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case apiv1connect.HostServiceAdmitProcedure, apiv1connect.HostServiceRenewProcedure, apiv1connect.NodeServiceWitnessProcedure, apiv1connect.NodeServiceCertifyNodeProcedure:
			size := r.ContentLength
			if size < 0 || size > maxEvidence {
				size = maxEvidence
			}
			if reading.Add(size) > maxReading {
				reading.Add(-size)
				http.Error(w, fmt.Sprintf("%s: too much evidence under way", keystead.ReasonOverloaded), http.StatusServiceUnavailable)
				return
			}
			defer reading.Add(-size)
			r.Body = http.MaxBytesReader(w, r.Body, maxEvidence+(64<<10))
		}
		next.ServeHTTP(w, r)
	})
}
