package serve

import (
	"context"

	"connectrpc.com/connect"

	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/ledger"
)

// Bounds of requests about hosts.
const (
	maxEvidence  = 16 << 20 // bytes of a message that holds bundles
	maxHosts     = 1000     // of one page
	maxStateKeys = 256
)

// Hosts admits hosts, and gives them what their leases obtain.
type Hosts interface {
	// Nonce returns the newest ledger nonce.
	Nonce(ctx context.Context) (*apiv1.NonceResponse, error)
	// Admit has the nodes judge evidence, and answers once it took effect.
	Admit(ctx context.Context, from Peer, r *apiv1.AdmitRequest) (*apiv1.AdmitResponse, error)
	// Renew has two nodes judge evidence, and answers once that is on the ledger.
	Renew(ctx context.Context, from Peer, r *apiv1.RenewRequest) (*apiv1.RenewResponse, error)
	// IssueSVID signs an X.509-SVID.
	IssueSVID(ctx context.Context, from Peer, host string) (*apiv1.IssueSVIDResponse, error)
	// Hosts returns up to limit enrolments whose names start with the prefix and come
	// after a name, and whether there are more.
	Hosts(ctx context.Context, prefix, after string, limit int) (hosts []*apiv1.Host, more bool, err error)
}

// Nonce implements the API's HostService.
func (s *server) Nonce(ctx context.Context, _ *connect.Request[apiv1.NonceRequest]) (*connect.Response[apiv1.NonceResponse], error) {
	if s.hosts == nil {
		return nil, unimplemented()
	}
	return answer(s.hosts.Nonce(ctx))
}

// answer makes the answer of a handler.
func answer[T any](m *T, err error) (*connect.Response[T], error) {
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(m), nil
}

// Admit implements the API's HostService.
func (s *server) Admit(ctx context.Context, r *connect.Request[apiv1.AdmitRequest]) (*connect.Response[apiv1.AdmitResponse], error) {
	if s.hosts == nil {
		return nil, unimplemented()
	}
	return answer(s.hosts.Admit(ctx, PeerOf(ctx), r.Msg))
}

// Renew implements the API's HostService.
func (s *server) Renew(ctx context.Context, r *connect.Request[apiv1.RenewRequest]) (*connect.Response[apiv1.RenewResponse], error) {
	if s.hosts == nil {
		return nil, unimplemented()
	}
	return answer(s.hosts.Renew(ctx, PeerOf(ctx), r.Msg))
}

// IssueSVID implements the API's HostService.
func (s *server) IssueSVID(ctx context.Context, r *connect.Request[apiv1.IssueSVIDRequest]) (*connect.Response[apiv1.IssueSVIDResponse], error) {
	if s.hosts == nil {
		return nil, unimplemented()
	}
	return answer(s.hosts.IssueSVID(ctx, PeerOf(ctx), r.Msg.GetHost()))
}

// ListHosts implements the API's HostService.
func (s *server) ListHosts(ctx context.Context, r *connect.Request[apiv1.ListHostsRequest]) (*connect.Response[apiv1.ListHostsResponse], error) {
	if s.hosts == nil {
		return nil, unimplemented()
	}
	limit := int(r.Msg.GetLimit())
	if limit == 0 || limit > maxHosts {
		limit = maxHosts
	}
	hosts, more, err := s.hosts.Hosts(ctx, r.Msg.GetPrefix(), r.Msg.GetAfter(), limit)
	return answer(&apiv1.ListHostsResponse{Hosts: hosts, More: more}, err)
}

// GetState implements the API's HostService.
func (s *server) GetState(ctx context.Context, r *connect.Request[apiv1.GetStateRequest]) (*connect.Response[apiv1.GetStateResponse], error) {
	if n := len(r.Msg.GetKeys()) + len(r.Msg.GetSubjects()); n == 0 || n > maxStateKeys {
		return nil, malformed("keys and subjects", "are %d, not 1 to %d", n, maxStateKeys)
	}
	out := &apiv1.GetStateResponse{}
	err := s.ledger.View(ctx, true, func(v ledger.View) error {
		status, err := v.Status()
		if err != nil {
			return err
		}
		out.ClockMs = status.Clock
		for _, k := range r.Msg.GetKeys() {
			x, err := v.Judged(k)
			if err == nil {
				err = Spend(ctx, len(k)+len(x.Data))
			}
			if err != nil {
				return err
			}
			out.Values = append(out.Values, &apiv1.Value{Key: k, Value: x.Data, Version: x.Version})
		}
		for _, name := range r.Msg.GetSubjects() {
			kind, subject, ok := cutSubject(name)
			if !ok {
				return malformed("subjects", "%.80q is not TYPE/SUBJECT", name)
			}
			version, err := v.Subject(kind, subject)
			if err != nil {
				return err
			}
			out.Versions = append(out.Versions, version)
		}
		return nil
	})
	return answer(out, err)
}
