// Starts Omniboard, the web page on runs in MongoDB: node start.js [mongodb://host:27017] [--port 9000]
'use strict';

const net = require('net');
const http = require('http');
const path = require('path');
const {parseArgs} = require('util');
const {databases} = require('./databases');

const HELP = `usage: node start.js [URL] [--port N] [--listen ADDRESS] [--name HOSTNAME ...]

Show the runs of a MongoDB server in the browser, a tab for each kind of run.

  URL               mongodb://host:port, host:port or a JSON file with url and db_name;
                    otherwise INCASEM_TRACKING_URL, otherwise localhost:27017
  --port N          port of the page, 9000 unless given
  --listen ADDRESS  address to listen on, 127.0.0.1 unless given: this machine alone.
                    Omniboard asks nobody for a password, and who sees the page can delete runs.
  --name HOSTNAME   a name, beside localhost, under which browsers reach the page
`;

function readArguments() {
  const options = {
    port: {type: 'string', default: '9000'},
    listen: {type: 'string', default: '127.0.0.1'},
    name: {type: 'string', multiple: true, default: []},
    help: {type: 'boolean', short: 'h', default: false},
  };
  const {values, positionals} = parseArgs({options, allowPositionals: true});
  const port = Number(values.port);
  if (!Number.isInteger(port) || port < 1 || port > 65535) {
    throw new Error(`--port must be a number from 1 to 65535, found ${values.port}.`);
  }
  if (positionals.length > 1) {
    throw new Error('Give one URL.');
  }
  const url = positionals[0] || process.env.INCASEM_TRACKING_URL || 'localhost:27017';
  databases(url); // says now what is wrong with it
  return {...values, port, url};
}

/** Omniboard listens on every address of the machine; this keeps it to one. */
function listenOn(address) {
  const listen = net.Server.prototype.listen;
  net.Server.prototype.listen = function (port, ...rest) {
    this.once('listening', () => console.log(`Open http://127.0.0.1:${this.address().port}/trainings`));
    return listen.call(this, {port: Number(port), host: address}, ...rest.filter(item => typeof item === 'function'));
  };
}

/** Omniboard lets the scripts of any web site read and delete runs; this refuses what does not come from its own page. */
function refuseForeignRequests(names) {
  const known = new Set(['localhost', '127.0.0.1', '[::1]', ...names.map(name => name.toLowerCase())]);
  const emit = http.Server.prototype.emit;
  http.Server.prototype.emit = function (event, request, response) {
    if (event !== 'request') {
      return emit.apply(this, arguments);
    }
    const host = (request.headers.host || '').toLowerCase();
    const origin = request.headers.origin;
    const own = !origin || origin.toLowerCase().replace(/^https?:\/\//, '') === host;
    if (!own || !known.has(host.replace(/:\d+$/, ''))) {
      response.writeHead(403, {'Content-Type': 'text/plain'});
      response.end(own ? `Omniboard is not known as ${host}: start it with --name.\n` : 'Refused.\n');
      return true;
    }
    return emit.apply(this, arguments);
  };
}

function main() {
  let wanted;
  try {
    wanted = readArguments();
    require.resolve('omniboard/dist/index.js');
  } catch (error) {
    const missing = error.code === 'MODULE_NOT_FOUND';
    console.error(missing ? `Omniboard is not installed: run npm ci --prefix ${__dirname}` : error.message);
    process.exit(2);
  }
  if (wanted.help) {
    process.stdout.write(HELP);
    return;
  }
  // Without a server Omniboard tries for half a minute and then ends; Node would end at the first failure
  process.on('unhandledRejection', reason => console.error(String((reason && reason.message) || reason)));
  listenOn(wanted.listen);
  refuseForeignRequests(wanted.name);
  process.argv.splice(2); // Omniboard reads it too
  process.env.NODE_ENV = 'production';
  process.env.PORT = String(wanted.port);
  process.env.INCASEM_OMNIBOARD_URL = wanted.url;
  process.env.OMNIBOARD_CONFIG = path.join(__dirname, 'configuration.js');
  require('omniboard/dist/index.js');
}

main();
