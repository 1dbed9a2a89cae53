package h2ping

// Speaks reports whether the connection was found to speak HTTP/2.
func (c *Conn) Speaks() bool { return c.speaks() }
