package serve

import (
	"context"
	"net"

	"github.com/keystead/keystead"
)

// A Peer is who is at the other end of a connection, as far as the connection itself
// shows: by evidence, or in a domain without evidence by a node's pinned TLS key. The
// zero Peer is anybody.
type Peer struct {
	Node string          // name of a node of the domain
	EK   keystead.Digest // hardware identity that evidence showed; zero if none was
	TLS  keystead.Digest // of the public key that was shown in TLS; zero if none was
	Key  Class           // as what that key alone is known
}

// Class returns as what the peer is treated.
func (p Peer) Class() Class {
	switch {
	case p.Node != "":
		return Node
	case !p.EK.IsZero():
		return Host
	}
	return p.Key
}

// pays returns whom that which a call takes is charged to.
func (p Peer) pays(remote string) any {
	switch {
	case p.Node != "":
		return p.Node
	case !p.EK.IsZero():
		return p.EK
	case p.Key != Stranger:
		return p.TLS
	}
	return Source(remote)
}

type peerKey struct{}

// WithPeer returns the context of a connection's requests.
func WithPeer(ctx context.Context, peer func() Peer) context.Context {
	return context.WithValue(ctx, peerKey{}, peer)
}

// ConnContext makes what [http.Server.ConnContext] takes: peer says who is at the
// other end of a connection, and is asked once a request.
func ConnContext(peer func(net.Conn) Peer) func(context.Context, net.Conn) context.Context {
	return func(ctx context.Context, c net.Conn) context.Context {
		return WithPeer(ctx, func() Peer { return peer(c) })
	}
}

// PeerOf returns who sent the request of this context.
func PeerOf(ctx context.Context) Peer {
	if peer, ok := ctx.Value(peerKey{}).(func() Peer); ok {
		return peer()
	}
	return Peer{}
}
