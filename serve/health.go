package serve

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"connectrpc.com/grpcreflect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/api/v1/apiv1connect"
)

// maxAsked bounds a question about health or about the API itself, in bytes.
const maxAsked = 4 << 10

// services are those of the API, as health and reflection name them.
var services = []string{apiv1connect.LedgerServiceName, apiv1connect.DomainServiceName, apiv1connect.HostServiceName, apiv1connect.NodeServiceName}

// described is the table of limits of what tools ask: a health check, which is one
// question, and reflection, a stream of questions.
var described = map[string]Limits{
	"/" + grpchealth.HealthV1ServiceName + "/Check":        {In: maxAsked, Values: 8, Out: small, Rate: 100, Flight: 16},
	"/" + grpcreflect.ReflectV1ServiceName + reflects:      {In: maxAsked, Values: 16, Out: answers, Time: 10 * time.Second, Rate: 10, Flight: 8},
	"/" + grpcreflect.ReflectV1AlphaServiceName + reflects: {In: maxAsked, Values: 16, Out: answers, Time: 10 * time.Second, Rate: 10, Flight: 8},
}

const reflects = "/ServerReflectionInfo"

// health answers grpc.health.v1.Health: whether the node serves, as Options.Ready says.
type health struct{ ready func() error }

// Check implements grpchealth.Checker. What is asked for by another name than a service's
// is not found.
func (h health) Check(_ context.Context, r *grpchealth.CheckRequest) (*grpchealth.CheckResponse, error) {
	if r.Service != "" && !slices.Contains(services, r.Service) {
		return nil, connect.NewError(connect.CodeNotFound, fmt.Errorf("%.80q is no service of this node", r.Service))
	}
	if h.ready != nil && h.ready() != nil {
		return &grpchealth.CheckResponse{Status: grpchealth.StatusNotServing}, nil
	}
	return &grpchealth.CheckResponse{Status: grpchealth.StatusServing}, nil
}

// describe has the node tell what tools ask every gRPC server: whether it serves, and what
// its API is.
func describe(mux *http.ServeMux, ready func() error, with []connect.HandlerOption) {
	mux.Handle(grpchealth.NewHandler(health{ready}, with...))
	reflector := grpcreflect.NewStaticReflector(append(slices.Clone(services), grpchealth.HealthV1ServiceName)...)
	mux.Handle(grpcreflect.NewHandlerV1(reflector, with...))
	mux.Handle(grpcreflect.NewHandlerV1Alpha(reflector, with...)) // which most tools still ask for
}

// strictJSON reads and writes messages as protobuf's JSON, and refuses fields that the API
// does not have: a misspelt condition of a write would be none.
type strictJSON struct{ name string }

var _ connect.Codec = strictJSON{}

// Name implements connect.Codec.
func (c strictJSON) Name() string { return c.name }

// Marshal implements connect.Codec.
func (c strictJSON) Marshal(m any) ([]byte, error) { return protojson.Marshal(m.(proto.Message)) }

// Unmarshal implements connect.Codec.
func (c strictJSON) Unmarshal(raw []byte, m any) error {
	if len(raw) == 0 {
		return nil // as a message without fields
	}
	if err := protojson.Unmarshal(raw, m.(proto.Message)); err != nil {
		return &keystead.FormatError{Format: "request", Field: "json", Problem: err.Error()}
	}
	return nil
}
