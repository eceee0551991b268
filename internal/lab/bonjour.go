package lab

import (
	"bytes"
	"context"
	"encoding/xml"
	"fmt"
)

// service is one that the host's multicast responder advertises; TXT records are "key=value".
type service struct {
	kind string
	port int
	txt  []string
}

// services are those that a Mac has, with Remote Login on or off.
func (h *Host) services(remoteLogin bool) []service {
	all := []service{
		{kind: "_airplay._tcp", port: 7000, txt: []string{"model=" + h.Model, "osvers=15.5"}},
		{kind: "_companion-link._tcp", port: 49152, txt: []string{"rpMd=" + h.Model}},
	}
	if remoteLogin {
		all = append(all, service{kind: "_ssh._tcp", port: 22}, service{kind: "_sftp-ssh._tcp", port: 22})
	}
	return all
}

// advertise writes the service files, one for all services; a running responder takes them over.
func (h *Host) advertise(ctx context.Context, remoteLogin bool) error {
	var b bytes.Buffer
	b.WriteString("<?xml version=\"1.0\" standalone='no'?>\n<!DOCTYPE service-group SYSTEM \"avahi-service.dtd\">\n<service-group>\n<name>")
	_ = xml.EscapeText(&b, []byte(h.Label)) // a buffer takes everything
	b.WriteString("</name>\n")
	for _, s := range h.services(remoteLogin) {
		fmt.Fprintf(&b, "<service><type>%s</type><port>%d</port>", s.kind, s.port)
		for _, t := range s.txt {
			b.WriteString("<txt-record>")
			_ = xml.EscapeText(&b, []byte(t)) // a buffer takes everything
			b.WriteString("</txt-record>")
		}
		b.WriteString("</service>\n")
	}
	b.WriteString("</service-group>\n")
	_, err := run(ctx, nil, b.String(), "nsenter", "--target", h.lab.target(), "--mount", "--",
		"sh", "-c", `cd "$1"; cat >mac.new && mv mac.new mac.service`, "sh", h.root+"/etc/avahi/services")
	if err != nil {
		return fmt.Errorf("write adverts: %w", err)
	}
	return nil
}
