package serve

import (
	"context"

	apiv1 "github.com/keystead/keystead/api/v1"
	api "github.com/keystead/keystead/api/v1/apiv1connect"
	"github.com/keystead/keystead/part"
)

// Keys releases agreed keys and lists them.
type Keys interface {
	// ListKeys returns what is known of the keys whose names start with prefix, never
	// their content.
	ListKeys(ctx context.Context, prefix string) (*apiv1.ListKeysResponse, error)
	// Release gives a key to the host that the request's connection shows, if its lease
	// and the key's specification allow it.
	Release(ctx context.Context, r *apiv1.ReleaseRequest) (*apiv1.ReleaseResponse, error)
}

// ListKeys implements the API's HostService.
func (s *keysAPI) ListKeys(ctx context.Context, r *apiv1.ListKeysRequest) (*apiv1.ListKeysResponse, error) {
	out, err := s.keys.ListKeys(ctx, r.GetPrefix())
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Release implements the API's HostService.
func (s *keysAPI) Release(ctx context.Context, r *apiv1.ReleaseRequest) (*apiv1.ReleaseResponse, error) {
	out, err := s.keys.Release(ctx, r)
	if err != nil {
		return nil, err
	}
	return out, nil
}

// keysAPI answers what the API's HostService says of keys.
type keysAPI struct{ keys Keys }

// KeyProcedures are those of agreed keys.
func KeyProcedures(by Keys) []part.Procedure {
	s := &keysAPI{by}
	return []part.Procedure{
		part.Unary(api.HostServiceReleaseProcedure, part.Limits{In: usual, Values: 16, Out: usual}, s.Release),
		part.Unary(api.HostServiceListKeysProcedure, part.Limits{In: small, Values: 8, Out: answers, Rate: 100, Flight: 16}, s.ListKeys),
	}
}
