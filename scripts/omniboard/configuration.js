// What Omniboard reads: the databases of the server that start.js was given.
'use strict';

module.exports = require('./databases').databases(process.env.INCASEM_OMNIBOARD_URL);
