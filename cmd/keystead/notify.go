package main

import (
	"net"
	"os"
)

// notify tells systemd about the process, if it asked to be told (sd_notify(3)).
func notify(state string) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	if path[0] == '@' {
		path = "\x00" + path[1:]
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return // nobody listens: then nobody waits
	}
	defer conn.Close()
	_, _ = conn.Write([]byte(state)) // a lost message delays, and breaks nothing
}
