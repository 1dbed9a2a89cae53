package serve

import (
	"context"
	"net"

	"github.com/keystead/keystead/part"
)

// pays returns whom that which a call takes is charged to.
func pays(c part.Caller, remote string) any {
	switch {
	case c.Node != "":
		return c.Node
	case !c.EK.IsZero():
		return c.EK
	case c.Key != part.ClassStranger:
		return c.TLS
	}
	return Source(remote)
}

// ConnContext makes what [http.Server.ConnContext] takes: caller says who is at the
// other end of a connection, and is asked once a request.
func ConnContext(caller func(net.Conn) part.Caller) func(context.Context, net.Conn) context.Context {
	return func(ctx context.Context, c net.Conn) context.Context {
		return part.WithCaller(ctx, func() part.Caller { return caller(c) })
	}
}
