package part

import (
	"context"
	"net/http"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
)

// Limits are what calls of one procedure take of a node at most.
type Limits struct {
	From      Class         // the least that may call
	In        int64         // bytes of a message that is sent; 0: evidence, as the node's configuration bounds it
	Values    int           // fields and items of such a message, those of its parts included
	Out       int64         // bytes of an answer, or of one message of a stream
	Time      time.Duration // for the call; 0: the API's. a stream of answers has it for the question, one of questions for each of them, where nothing else is declared
	Waits     bool          // for what is not there yet: has a place among those who wait
	Rate      int           // calls a second from one stranger's address; 0: the API's
	Flight    int           // of strangers' calls at a time; 0: as many as get in
	Shown     bool          // who asks shows members' signatures, each once: an answer may be larger than strangers' are
	Uncounted bool          // not among the calls under way: it counts for itself, or keeps the domain going
}

// A Procedure is one call that a node answers, with its limits. What no part of a node
// declares, the node does not answer.
type Procedure struct {
	Path   string // as the API has it: /package.Service/Method
	Limits Limits
	Input  protoreflect.MessageDescriptor // of what is sent
	Sends  bool                           // a stream of it
	// Handler returns what answers, given what all procedures have in common.
	Handler func(common ...connect.HandlerOption) http.Handler
}

// Service returns the full name of the procedure's service.
func (p *Procedure) Service() string {
	service, _, _ := strings.Cut(strings.TrimPrefix(p.Path, "/"), "/")
	return service
}

// message is a pointer to a message of the API.
type message[T any] interface {
	*T
	proto.Message
}

// Unary is a procedure of one question and one answer.
func Unary[Req, Res any, M message[Req]](path string, limits Limits, do func(context.Context, *Req) (*Res, error)) Procedure {
	answer := func(ctx context.Context, r *connect.Request[Req]) (*connect.Response[Res], error) {
		out, err := do(ctx, r.Msg)
		if err != nil {
			return nil, err
		}
		return connect.NewResponse(out), nil
	}
	return procedure[Req, M](path, limits, false, func(o ...connect.HandlerOption) http.Handler {
		return connect.NewUnaryHandler(path, answer, o...)
	})
}

// Stream is a procedure of one question and a stream of answers.
func Stream[Req, Res any, M message[Req]](path string, limits Limits, do func(ctx context.Context, r *Req, send func(*Res) error) error) Procedure {
	answer := func(ctx context.Context, r *connect.Request[Req], to *connect.ServerStream[Res]) error {
		return do(ctx, r.Msg, to.Send)
	}
	return procedure[Req, M](path, limits, false, func(o ...connect.HandlerOption) http.Handler {
		return connect.NewServerStreamHandler(path, answer, o...)
	})
}

// Upload is a procedure of a stream of questions and one answer.
func Upload[Req, Res any, M message[Req]](path string, limits Limits, do func(context.Context, *connect.ClientStream[Req]) (*connect.Response[Res], error)) Procedure {
	return procedure[Req, M](path, limits, true, func(o ...connect.HandlerOption) http.Handler {
		return connect.NewClientStreamHandler(path, do, o...)
	})
}

// Both is a procedure of two streams.
func Both[Req, Res any, M message[Req]](path string, limits Limits, do func(context.Context, *connect.BidiStream[Req, Res]) error) Procedure {
	return procedure[Req, M](path, limits, true, func(o ...connect.HandlerOption) http.Handler {
		return connect.NewBidiStreamHandler(path, do, o...)
	})
}

func procedure[Req any, M message[Req]](path string, limits Limits, sends bool, handler func(...connect.HandlerOption) http.Handler) Procedure {
	p := Procedure{Path: path, Limits: limits, Input: M(new(Req)).ProtoReflect().Descriptor(), Sends: sends}
	own := p.schema()
	p.Handler = func(common ...connect.HandlerOption) http.Handler { return handler(append(own, common...)...) }
	return p
}

// schema returns what the API's source says of a procedure.
func (p *Procedure) schema() (out []connect.HandlerOption) {
	name := strings.ReplaceAll(strings.TrimPrefix(p.Path, "/"), "/", ".")
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(name))
	if err != nil {
		return nil // of no API in this build; the node refuses to declare it
	}
	method, ok := d.(protoreflect.MethodDescriptor)
	if !ok {
		return nil
	}
	out = append(out, connect.WithSchema(method))
	if o, ok := method.Options().(*descriptorpb.MethodOptions); ok && o.GetIdempotencyLevel() == descriptorpb.MethodOptions_NO_SIDE_EFFECTS {
		out = append(out, connect.WithIdempotency(connect.IdempotencyNoSideEffects))
	}
	return out
}
