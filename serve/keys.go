package serve

import (
	"context"

	"connectrpc.com/connect"

	apiv1 "github.com/keystead/keystead/api/v1"
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
func (s *server) ListKeys(ctx context.Context, r *connect.Request[apiv1.ListKeysRequest]) (*connect.Response[apiv1.ListKeysResponse], error) {
	if s.keys == nil {
		return s.UnimplementedHostServiceHandler.ListKeys(ctx, r)
	}
	out, err := s.keys.ListKeys(ctx, r.Msg.GetPrefix())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(out), nil
}

// Release implements the API's HostService.
func (s *server) Release(ctx context.Context, r *connect.Request[apiv1.ReleaseRequest]) (*connect.Response[apiv1.ReleaseResponse], error) {
	if s.keys == nil {
		return s.UnimplementedHostServiceHandler.Release(ctx, r)
	}
	out, err := s.keys.Release(ctx, r.Msg)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(out), nil
}
