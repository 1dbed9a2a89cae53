package client

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"strings"
	"time"
)

// Dial opens a connection to wherever a transport is for.
type Dial func(ctx context.Context) (net.Conn, error)

// PinnedTransport speaks HTTP/2 to the one holder of a contact's TLS key, or without
// TLS to a contact that has an http address.
func PinnedTransport(to Contact, own *tls.Certificate) *http.Transport {
	plain := strings.HasPrefix(to.API, "http://")
	t := transport(plain)
	t.Protocols.SetHTTP2(!plain)
	t.TLSClientConfig = PinnedTLS(to.TLS, own)
	t.DialContext = (&net.Dialer{Timeout: 3 * time.Second, KeepAlive: 10 * time.Second}).DialContext
	t.IdleConnTimeout = time.Minute
	return t
}

// How long a connection is silent before the other side is asked whether it is there. A
// node's host is silent between two renewals, and there are many hosts: asked as often as
// nodes and clients are, they would cost more than their evidence.
const (
	peerSilence = 5 * time.Second
	HostSilence = 90 * time.Second
)

// AttestedTransport speaks HTTP/2 on connections that dial opens, which are attested
// and encrypted below it. It names no host: who is at the other end is dial's affair.
func AttestedTransport(dial Dial, idle time.Duration) *http.Transport {
	t := transport(true)
	t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) }
	t.IdleConnTimeout = idle
	return t
}

func transport(unencrypted bool) *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(unencrypted)
	return &http.Transport{
		Protocols: protocols,
		HTTP2:     &http.HTTP2Config{SendPingTimeout: peerSilence, PingTimeout: 5 * time.Second, MaxReceiveBufferPerConnection: 16 << 20, MaxReceiveBufferPerStream: 4 << 20},
	}
}
