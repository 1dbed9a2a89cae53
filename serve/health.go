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
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/part"
)

// maxAsked bounds a question about health or about the API itself, in bytes.
const maxAsked = 4 << 10

const reflects = "/ServerReflectionInfo"

// health answers grpc.health.v1.Health: whether the node serves, as Options.Ready says.
type health struct {
	ready    func() error
	services []string
}

// Check implements grpchealth.Checker. What is asked for by another name than a service's
// is not found.
func (h health) Check(_ context.Context, r *grpchealth.CheckRequest) (*grpchealth.CheckResponse, error) {
	if r.Service != "" && !slices.Contains(h.services, r.Service) {
		return nil, connect.NewError(connect.CodeNotFound, fmt.Errorf("%.80q is no service of this node", r.Service))
	}
	if h.ready != nil && h.ready() != nil {
		return &grpchealth.CheckResponse{Status: grpchealth.StatusNotServing}, nil
	}
	return &grpchealth.CheckResponse{Status: grpchealth.StatusServing}, nil
}

// described are the procedures by which tools ask every gRPC server whether it serves, which
// is one question, and what its API is, a stream of questions.
func described(procedures []part.Procedure, ready func() error) []part.Procedure {
	var services []string
	for i := range procedures {
		services = append(services, procedures[i].Service())
	}
	slices.Sort(services)
	services = slices.Compact(services)
	reflector := grpcreflect.NewStaticReflector(append(slices.Clone(services), grpchealth.HealthV1ServiceName)...)
	asked := part.Limits{In: maxAsked, Values: 16, Out: answers, Time: 10 * time.Second, Rate: 10, Flight: 8}
	of := func(path string, limits part.Limits, handler func(...connect.HandlerOption) (string, http.Handler)) part.Procedure {
		return part.Procedure{Path: path, Limits: limits, Sends: limits.Time > 0,
			Input:   (&apiv1.ShowRequest{}).ProtoReflect().Descriptor(), // theirs is none of the API's: of what it has, each field counts
			Handler: func(common ...connect.HandlerOption) http.Handler { _, h := handler(common...); return h }}
	}
	return []part.Procedure{
		of("/"+grpchealth.HealthV1ServiceName+"/Check", part.Limits{In: maxAsked, Values: 8, Out: small, Rate: 100, Flight: 16},
			func(o ...connect.HandlerOption) (string, http.Handler) {
				return grpchealth.NewHandler(health{ready, services}, o...)
			}),
		of("/"+grpcreflect.ReflectV1ServiceName+reflects, asked,
			func(o ...connect.HandlerOption) (string, http.Handler) {
				return grpcreflect.NewHandlerV1(reflector, o...)
			}),
		of("/"+grpcreflect.ReflectV1AlphaServiceName+reflects, asked, // which most tools still ask for
			func(o ...connect.HandlerOption) (string, http.Handler) {
				return grpcreflect.NewHandlerV1Alpha(reflector, o...)
			}),
	}
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
