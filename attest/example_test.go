package attest

import (
	"fmt"
	"net"
	"net/http"
	"testing"
)

// A machine serves HTTP/2 to machines that it knows by their TPMs. Configurations are
// made of a certificate, a collect.Prover over the machine's TPM, and an [Appraiser].
func Example() {
	t := new(testing.T)
	s := onStage(t)
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	listener, err := NewListener(inner, s.config(s.bob, s.alice), ListenerOptions{})
	if err != nil {
		panic(err)
	}
	server := &http.Server{ConnContext: ConnContext, Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		peer := FromContext(r.Context()).Peer()
		fmt.Fprintf(w, "%s to %s, assurance %v", r.Proto, peer.Name(), peer.Verdict().Assurance())
	})}
	server.Protocols.SetUnencryptedHTTP2(true) // TLS is below it
	go server.Serve(listener)
	defer server.Close()

	fmt.Println(get(t, attested(t, s.config(s.alice, s.bob)), "https://"+inner.Addr().String()))
	// Output: HTTP/2.0 to alice, assurance test
}
