// Loaded into llmprobe, which may ask no one but the server: that has an address and needs no name looked up.

import dns from 'node:dns';

dns.lookup = (name) => {
  console.error(`llmprobe asks for ${name}`);
  process.exit(70);
};
