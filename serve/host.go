package serve

import (
	"context"

	apiv1 "github.com/keystead/keystead/api/v1"
	api "github.com/keystead/keystead/api/v1/apiv1connect"
	"github.com/keystead/keystead/part"
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
	Admit(ctx context.Context, from part.Caller, r *apiv1.AdmitRequest) (*apiv1.AdmitResponse, error)
	// Renew has two nodes judge evidence, and answers once that is on the ledger.
	Renew(ctx context.Context, from part.Caller, r *apiv1.RenewRequest) (*apiv1.RenewResponse, error)
	// IssueSVID signs an X.509-SVID.
	IssueSVID(ctx context.Context, from part.Caller, r *apiv1.IssueSVIDRequest) (*apiv1.IssueSVIDResponse, error)
	// Hosts returns up to limit enrolments whose names start with the prefix and come
	// after a name, and whether there are more.
	Hosts(ctx context.Context, prefix, after string, limit int) (hosts []*apiv1.Host, more bool, err error)
}

// Nonce implements the API's HostService.
func (s *hostsAPI) Nonce(ctx context.Context, _ *apiv1.NonceRequest) (*apiv1.NonceResponse, error) {
	return s.hosts.Nonce(ctx)
}

// Admit implements the API's HostService.
func (s *hostsAPI) Admit(ctx context.Context, r *apiv1.AdmitRequest) (*apiv1.AdmitResponse, error) {
	return s.hosts.Admit(ctx, part.CallerOf(ctx), r)
}

// Renew implements the API's HostService.
func (s *hostsAPI) Renew(ctx context.Context, r *apiv1.RenewRequest) (*apiv1.RenewResponse, error) {
	return s.hosts.Renew(ctx, part.CallerOf(ctx), r)
}

// IssueSVID implements the API's HostService.
func (s *hostsAPI) IssueSVID(ctx context.Context, r *apiv1.IssueSVIDRequest) (*apiv1.IssueSVIDResponse, error) {
	return s.hosts.IssueSVID(ctx, part.CallerOf(ctx), r)
}

// ListHosts implements the API's HostService.
func (s *hostsAPI) ListHosts(ctx context.Context, r *apiv1.ListHostsRequest) (*apiv1.ListHostsResponse, error) {
	limit := int(r.GetLimit())
	if limit == 0 || limit > maxHosts {
		limit = maxHosts
	}
	hosts, more, err := s.hosts.Hosts(ctx, r.GetPrefix(), r.GetAfter(), limit)
	return &apiv1.ListHostsResponse{Hosts: hosts, More: more}, err
}

// hostsAPI answers what the API's HostService says of hosts.
type hostsAPI struct{ hosts Hosts }

// HostProcedures are those by which hosts are admitted, and served.
func HostProcedures(by Hosts) []part.Procedure {
	s := &hostsAPI{by}
	return []part.Procedure{
		part.Unary(api.HostServiceNonceProcedure, part.Limits{In: small, Values: 8, Out: small}, s.Nonce),
		part.Unary(api.HostServiceAdmitProcedure, part.Limits{From: part.ClassHost, Values: 8, Out: usual}, s.Admit),
		part.Unary(api.HostServiceRenewProcedure, part.Limits{From: part.ClassHost, Values: 8, Out: usual}, s.Renew),
		part.Unary(api.HostServiceIssueSVIDProcedure, part.Limits{In: small, Values: 8, Out: usual}, s.IssueSVID),
		part.Unary(api.HostServiceListHostsProcedure, part.Limits{In: small, Values: 8, Out: answers, Rate: 100, Flight: 16}, s.ListHosts),
	}
}
