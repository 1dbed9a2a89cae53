package serve

import (
	"context"
	"fmt"
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
	// ExchangeHeads takes the statements of the node of that name, and of others, and
	// returns this node's.
	ExchangeHeads(from string, r *apiv1.ExchangeHeadsRequest) (*apiv1.ExchangeHeadsResponse, error)
	// GetStateDigest says what the node makes of its state at a position.
	GetStateDigest(ctx context.Context, position uint64) (*apiv1.GetStateDigestResponse, error)
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

// maxHeard is how many statements of others a node hands on at once.
const maxHeard = 512

// ExchangeHeads implements the API's NodeService.
func (s *server) ExchangeHeads(ctx context.Context, r *connect.Request[apiv1.ExchangeHeadsRequest]) (*connect.Response[apiv1.ExchangeHeadsResponse], error) {
	if err := s.fromNode(ctx); err != nil {
		return nil, err
	}
	if n := len(r.Msg.GetHeard()); n > maxHeard {
		return nil, malformed("heard", "are %d statements, at most %d are taken", n, maxHeard)
	}
	return answer(s.nodes.ExchangeHeads(PeerOf(ctx).Node, r.Msg))
}

// GetStateDigest implements the API's NodeService.
func (s *server) GetStateDigest(ctx context.Context, r *connect.Request[apiv1.GetStateDigestRequest]) (*connect.Response[apiv1.GetStateDigestResponse], error) {
	if err := s.fromNode(ctx); err != nil {
		return nil, err
	}
	return answer(s.nodes.GetStateDigest(ctx, r.Msg.GetPosition()))
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

// Evidence bounds the bytes of evidence that are received or judged at a time.
type Evidence struct {
	Bundle  int64 // of a message of a machine
	Machine int64 // of one machine's messages
	Pending int64 // of all machines' together
	Node    int64 // of one node's, which hands on batches
}

// DefaultEvidence holds where nothing else was configured.
var DefaultEvidence = Evidence{Bundle: maxEvidence, Machine: 64 << 20, Pending: 512 << 20, Node: 192 << 20}

// Room is memory that strangers' bytes take. One half is for whoever has little of it, a
// 512th of the whole at most; of what is free of the other, one of them gets a half at most
// (a dynamic threshold: Choudhury, Hahne, 1998). So 256 who take all that they get leave
// room for others' renewals, which are small.
type Room struct {
	size int64

	mu    sync.Mutex
	taken int64
	of    map[any]int64
}

// NewRoom makes room for so many bytes.
func NewRoom(size int64) *Room { return &Room{size: size, of: map[any]int64{}} }

// Enter takes room for somebody, who has at most so much altogether. Refusal: overloaded.
func (r *Room) Enter(who any, size, most int64) (leave func(), err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	has, little := r.of[who]+size, r.size/512
	if has > most || r.taken+size > r.size || has > little && has > (r.size/2-r.taken)/2 {
		return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonOverloaded, Where: "api", Want: "less evidence under way", Got: "as much as memory is for"})
	}
	r.taken += size
	r.of[who] += size
	return func() { r.leave(who, size) }, nil
}

func (r *Room) leave(who any, size int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.taken -= size
	if r.of[who] -= size; r.of[who] == 0 {
		delete(r.of, who)
	}
}

// frame is what a message has beside the bundle, in bytes.
const frame = 64 << 10

// encoded reports whether a body unpacks to more than is sent, in each of the ways that
// Connect, gRPC and HTTP have.
func encoded(h http.Header) bool {
	for _, name := range []string{"Content-Encoding", "Connect-Content-Encoding", "Grpc-Encoding"} {
		if v := h.Get(name); v != "" && v != "identity" {
			return true
		}
	}
	return false
}

// evidenceGate lets evidence in that comes from those who may send some, nodes and
// machines whose connection showed what they are, and no more of it at a time than
// memory has room for: a request's body is read whole before a handler sees it.
func evidenceGate(next http.Handler, bounds Evidence) http.Handler {
	machines, nodes := NewRoom(bounds.Pending), NewRoom(1<<50) // each node by its own bound alone
	enter := func(from Peer, size int64) (leave func(), err error) {
		if from.Node != "" {
			return nodes.Enter(from.Node, size, bounds.Node)
		}
		return machines.Enter(from.EK, size, bounds.Machine)
	}
	says := connect.NewErrorWriter()
	refuse := func(w http.ResponseWriter, r *http.Request, err error) {
		_ = says.Write(w, r, refusal.Encode(err)) // who is gone is not told
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case apiv1connect.HostServiceAdmitProcedure, apiv1connect.HostServiceRenewProcedure, apiv1connect.NodeServiceWitnessProcedure, apiv1connect.NodeServiceCertifyNodeProcedure:
			from := PeerOf(r.Context())
			if from.Node == "" && from.EK.IsZero() {
				f := keystead.Finding{Reason: keystead.ReasonEvidenceMissing, Where: "connection", Want: "an attested connection of a host or a node", Got: "one without evidence"}
				if strings.HasPrefix(r.URL.Path, "/"+apiv1connect.NodeServiceName+"/") {
					f = notNode()
				}
				refuse(w, r, keystead.Deny(f))
				return
			}
			whole := bounds.Bundle
			if from.Node != "" {
				whole = maxEvidence
			}
			most := whole + frame
			size := r.ContentLength
			if size > most {
				refuse(w, r, keystead.Deny(keystead.Finding{Reason: keystead.ReasonTooLarge, Where: "evidence", Want: fmt.Sprintf("at most %d bytes (evidence.bundle-mib)", most), Got: fmt.Sprintf("%d bytes", size)}))
				return
			}
			if size < 0 || encoded(r.Header) {
				size = whole // which memory may be taken of, whatever is announced
			}
			leave, err := enter(from, min(size, whole))
			if err != nil {
				refuse(w, r, err)
				return
			}
			defer leave()
			r.Body = http.MaxBytesReader(w, r.Body, most)
		}
		next.ServeHTTP(w, r)
	})
}
